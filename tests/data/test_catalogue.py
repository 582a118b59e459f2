import dataclasses
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

import cfg_jax
from cfg_jax.data import ArraySource, Catalogue, Digits, UnreadableError, catalogue
from cfg_jax.data import dataset as datasets
from cfg_jax.data.records import RecordSource
from cfg_jax.parts import Facts


def _images(sizes, channels=3):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, channels), dtype=np.uint8) for size in sizes]


def _png(image):
    if isinstance(image, bytes):
        return io.BytesIO(image)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    image.save(file := io.BytesIO(), "PNG")
    return io.BytesIO(file.getvalue())


class Stored(tfds.core.GeneratorBasedBuilder):
    """Stands for any dataset of TFDS's catalogue; already encoded images need no TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None
    shape = (4, 5, 3)
    splits: ClassVar = {"train": _images([(4, 5)] * 6), "test": _images([(4, 5)] * 2)}
    label = tfds.features.ClassLabel(names=["cat", "dog"])
    labels = (0, 1)

    def _info(self):
        features = {"image": tfds.features.Image(shape=self.shape), "id": tfds.features.Text()}
        if self.label is not None:
            features["label"] = self.label
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(images) for split, images in self.splits.items()}

    def _generate_examples(self, images):
        for index, pixels in enumerate(images):
            example = {"image": _png(pixels), "id": str(index)}
            if self.label is not None:
                example["label"] = self.labels[index % len(self.labels)]
            yield index, example


class ValidatedStored(Stored):
    splits: ClassVar = {"train": _images([(4, 5)] * 3), "validation": _images([(4, 5)] * 2)}


class UntestedStored(Stored):
    splits: ClassVar = {"train": _images([(4, 5)] * 3)}


class MixedStored(Stored):
    shape = (None, None, 3)
    splits: ClassVar = {"train": _images([(8, 12), (9, 6), (6, 6)]), "test": _images([(7, 7)])}


class GreyStored(Stored):
    shape = (4, 5, 1)
    splits: ClassVar = {"train": _images([(4, 5)] * 3, channels=1)}


class PaletteStored(Stored):
    """As ImageNet does, holds files that are stored otherwise than the features say."""

    colours = _images([(4, 5)])[0] & 0b11000000
    splits: ClassVar = {"train": [Image.fromarray(colours).quantize(64), Image.new("L", (5, 4), 9)]}


def _half_a_jpeg():
    Image.fromarray(_images([(4, 5)])[0]).save(file := io.BytesIO(), "JPEG")
    return file.getvalue()[: file.tell() - 40]


class DamagedStored(Stored):
    """Its records are sound, what they hold is not always an image of the right size."""

    splits: ClassVar = {"train": _images([(4, 5)] * 5 + [(5, 4), (4, 5)])}
    splits["train"][1] = _half_a_jpeg()
    splits["train"][4] = b"not an image"


class RuinedStored(Stored):
    splits: ClassVar = {"train": [b"not an image"] * 3}


class UnlabelledStored(Stored):
    label = None


class UnpublishedStored(Stored):
    labels = (0, -1)


class TextStored(Stored):
    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self, images):
        yield 0, {"text": "no image"}


def _examples(dataset):
    return [dataset.source[i] for i in range(len(dataset.source))]


def _assert_holds(dataset, images, labels):
    for example, image, label in zip(_examples(dataset), images, labels, strict=True):
        np.testing.assert_array_equal(example["x"], image)
        assert example["x"].dtype == np.uint8
        assert example["label"] == label
        assert example["label"].dtype == np.int32


def test_a_prepared_stored_dataset(prepared):
    settings = prepared(Stored)
    train = settings.open("train")
    _assert_holds(train, Stored.splits["train"], [0, 1] * 3)
    assert train.shape == (4, 5, 3)
    assert (train.class_names, train.num_classes) == (("cat", "dog"), 2)
    assert (train.name, train.split) == ("stored", "train")
    _assert_holds(settings.open("test"), Stored.splits["test"], [0, 1])


def test_large_datasets_stay_on_disk(prepared, monkeypatch):
    settings = prepared(MixedStored, image_size=5)
    small = settings.open("train")
    assert isinstance(small.source, ArraySource)
    monkeypatch.setattr(datasets, "IN_MEMORY", 3 * 5 * 5 * 3 - 1)
    large = settings.open("train")
    assert isinstance(large.source, RecordSource)
    again = pickle.loads(pickle.dumps(large))
    for dataset in (large, again):
        _assert_holds(dataset, small.source.arrays["x"], small.source.arrays["label"])


def test_images_of_many_sizes_are_resized_and_cropped(prepared):
    dataset = prepared(MixedStored, image_size=6).open("train")
    wide, tall, exact = MixedStored.splits["train"]
    bicubic = Image.Resampling.BICUBIC
    wide = np.asarray(Image.fromarray(wide).resize((9, 6), bicubic))[:, 1:7]
    tall = tall[1:7]
    assert dataset.shape == (6, 6, 3)
    _assert_holds(dataset, [wide, tall, exact], [0, 1, 0])


def test_images_of_many_sizes_need_image_size(prepared):
    with pytest.raises(ValueError, match="mixed_stored differ in size: set image_size"):
        prepared(MixedStored).open("train")


def test_grey_images(prepared):
    dataset = prepared(GreyStored).open("train")
    assert dataset.shape == (4, 5, 1)
    _assert_holds(dataset, GreyStored.splits["train"], [0, 1, 0])


def test_every_file_is_made_what_the_features_say(prepared):
    dataset = prepared(PaletteStored).open("train")
    expected = [np.asarray(file.convert("RGB")) for file in PaletteStored.splits["train"]]
    np.testing.assert_array_equal(expected[0], PaletteStored.colours)
    _assert_holds(dataset, expected, [0, 1])


def test_unlabelled_images_have_no_classes(prepared):
    dataset = prepared(UnlabelledStored).open("train")
    assert (dataset.class_names, dataset.num_classes) == ((), 0)
    assert dataset.arrays == {}
    for example, image in zip(_examples(dataset), Stored.splits["train"], strict=True):
        assert example.keys() == {"x"}
        np.testing.assert_array_equal(example["x"], image)


def test_validation_stands_in_for_test(prepared):
    dataset = prepared(ValidatedStored).open("test")
    _assert_holds(dataset, ValidatedStored.splits["validation"], [0, 1])


# Damage.

REASONS = {
    1: r"OSError: image file is truncated \(\d+ bytes not processed\)",
    4: "UnidentifiedImageError: cannot identify image file",
    5: r"ValueError: it is \(5, 4, 3\) where \(4, 5, 3\) is expected",
}
SKIPPING = r"skip_bad \(the flag --skip-bad\) goes on without such examples"


def _assert_unreadable(read, message):
    with pytest.raises(UnreadableError, match=f"^{message}$") as caught:
        read()
    assert "\n" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (UnreadableError, str(caught.value))


def _flipped(settings, name, position):
    """Flips one bit of a prepared split's file; returns the records its reader then refuses."""
    (file,) = Path(settings.dir).glob(f"*/1.0.0/*{name}.array_record*")
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    reader, refused = ArrayRecordReader(str(file)), []
    for index in range(reader.num_records()):
        try:
            reader.read([index])
        except RuntimeError:
            refused.append(index)
    return refused


def test_bad_images_are_named(prepared, monkeypatch):
    settings = prepared(DamagedStored)
    named = "damaged_stored train: example {} cannot be read \\({}\\)"
    _assert_unreadable(lambda: settings.open("train"), f"{named.format(1, REASONS[1])}; {SKIPPING}")
    monkeypatch.setattr(datasets, "IN_MEMORY", 0)
    source = settings.open("train").source
    for index, image in enumerate(DamagedStored.splits["train"]):
        if index in REASONS:
            _assert_unreadable(lambda i=index: source[i], named.format(index, REASONS[index]))
        else:
            np.testing.assert_array_equal(source[index]["x"], image)


def test_bad_images_are_left_out_of_memory_and_counted_if_so_said(prepared, caplog):
    settings = prepared(DamagedStored, skip_bad=True)
    with caplog.at_level(logging.WARNING):
        dataset = settings.open("train")
    kept = [0, 2, 3, 6]
    _assert_holds(dataset, [DamagedStored.splits["train"][i] for i in kept], [0, 0, 1, 0])
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "left out 3 of 7 examples as unreadable, such as damaged_stored train: example 1 "
    )


@pytest.mark.parametrize("skip_bad", [False, True])
def test_nothing_but_bad_images_is_refused(prepared, skip_bad):
    settings = prepared(RuinedStored, skip_bad=skip_bad)
    message = "example 0 cannot be read .*; skip_bad"
    if skip_bad:
        message = "none of 3 examples can be read, such as ruined_stored train: example 0"
    with pytest.raises(ValueError, match=message):
        settings.open("train")


@pytest.mark.parametrize("position", [33_000, 40_000, 45_000])
def test_one_flipped_bit_costs_one_record(source, monkeypatch, position):
    settings = source(Digits)
    whole = settings.open("train").source
    (bad,) = _flipped(settings, "train", position)
    message = rf"digits train: example {bad} cannot be read \(RuntimeError: Corrupted .* hash .*\)"
    _assert_unreadable(lambda: settings.open("train"), f"{message}; {SKIPPING}")
    rest = dataclasses.replace(settings, skip_bad=True).open("train").source
    for name in ("x", "label"):
        np.testing.assert_array_equal(rest.arrays[name], np.delete(whole.arrays[name], bad, axis=0))
    monkeypatch.setattr(datasets, "IN_MEMORY", 0)
    stored = settings.open("train").source
    _assert_unreadable(lambda: stored[bad], message)
    np.testing.assert_array_equal(stored[bad + 1]["x"], whole.arrays["x"][bad + 1])


@pytest.mark.parametrize("damage", ["cut", "emptied", "removed"])
def test_every_record_of_a_lost_file_is_named(source, monkeypatch, damage):
    monkeypatch.setattr(datasets, "IN_MEMORY", 0)
    settings = source(Digits, skip_bad=True)
    settings.open("test")
    (file,) = Path(settings.dir).glob("*/1.0.0/*test.array_record*")
    size = file.stat().st_size
    if damage == "removed":
        file.unlink()
    else:
        os.truncate(file, size // 2 if damage == "cut" else 0)
    records = settings.open("test").source
    for index in (0, 359):
        message = rf"digits test: example {index} cannot be read \((Runtime|Value)Error: .*\)"
        _assert_unreadable(lambda i=index: records[i], message)


# What is refused.


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (UntestedStored, "untested_stored has no test split: it has train"),
        (
            UnpublishedStored,
            "unpublished_stored test: example 1 is unlabelled, as may be the whole",
        ),
        (TextStored, "text_stored has no feature named image of 8-bit images"),
    ],
)
def test_unsuitable_datasets_are_refused(prepared, builder, message):
    with pytest.raises(ValueError, match=message):
        prepared(builder).open("test")


def test_a_format_without_random_access_is_refused(prepared):
    settings = prepared(Stored)
    info = Path(settings.dir) / "stored" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="without random access: set another dir") as error:
        settings.open("train")
    assert str(info.parent) in str(error.value)


@pytest.mark.parametrize(
    "name", ["nonesuch", "cifar10/nonesuch", "cifar10:9.9.9", "", "not a name", "nowhere:cifar10"]
)
def test_unknown_names_are_refused_in_one_line(source, name):
    for read in (Catalogue.peek, lambda unknown: unknown.open("train")):
        with pytest.raises(ValueError, match="names no dataset that TFDS can open") as error:
            read(source(Catalogue, name=name))
    assert str(error.value).startswith(f"{name!r} names")
    assert "\n" not in str(error.value)


def test_preparing_without_tensorflow_is_refused(source, monkeypatch):
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: None)
    message = r"preparing cifar10 needs TensorFlow: pip install 'cfg-jax\[prepare\]' \(reading"
    with pytest.raises(ValueError, match=message):
        (settings := source(Catalogue, name="cifar10")).open("train")
    assert not os.path.exists(Path(settings.dir) / "cifar10")


def test_another_missing_package_is_named(source, monkeypatch):
    def _generate_examples(self, images):
        raise ModuleNotFoundError("No module named 'mutagen'", name="mutagen")

    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: "found")
    monkeypatch.setattr(Stored, "_split_generators", _generate_examples)
    with pytest.raises(ValueError, match="preparing stored needs mutagen: pip install"):
        source(Catalogue, name="stored").open("train")


def test_preparing_at_the_same_time_as_another_process(source, monkeypatch):
    settings = source(Catalogue, name="stored")
    alone = Stored._generate_examples
    others = []

    def _generate_examples(self, images):
        if not others:
            others.append(Stored(data_dir=settings.dir))
            others[0].download_and_prepare(file_format="array_record")
        return alone(self, images)

    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: "found")
    monkeypatch.setattr(Stored, "_generate_examples", _generate_examples)
    dataset = settings.open("train")
    assert others
    _assert_holds(dataset, Stored.splits["train"], [0, 1] * 3)


def test_a_dataset_is_peeked_at_without_its_data(source, monkeypatch):
    monkeypatch.setattr(Stored, "_split_generators", None)
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: None)
    settings = source(Catalogue, name="stored")
    label = {"label": jax.ShapeDtypeStruct((), np.int32)}
    assert settings.peek() == Facts((4, 5, 3), ("cat", "dog"), label)
    assert source(Catalogue, name="mixed_stored", image_size=6).peek().shape == (6, 6, 3)
    assert source(Catalogue, name="unlabelled_stored").peek() == Facts((4, 5, 3))
    assert not os.path.exists(settings.dir)


def test_the_home_folder_may_be_abbreviated(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Digits(dir="~/here").open("test")
    assert (tmp_path / "here" / "digits").exists()


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300, "/proc/cfg_jax"])
def test_a_place_that_cannot_be_written_to_is_refused_in_one_line(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"digits cannot be prepared in .*: dir, or TFDS_DATA_DIR"
    ) as e:
        Digits(dir=str(tmp_path / place)).open("train")
    assert "\n" not in str(e.value)


@pytest.mark.slow
def test_what_is_at_hand_never_imports_tensorflow(tmp_path):
    trap = tmp_path / "trap" / "tensorflow"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    for label in ("cat", "dog"):
        for index in range(4):
            path = tmp_path / "images" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    program = f"""
        import sys
        from cfg_jax.data import Digits, Folder, MovingDigits, batches
        assert not {{"tensorflow_datasets", "grain", "PIL", "sklearn"}} & {{*sys.modules}}
        place = {str(tmp_path)!r}
        folder = Folder(path=place + "/images", dir=place, held_out=0.5)
        for source in (Digits(dir=place, flip=True), folder, MovingDigits(dir=place)):
            for split in ("train", "test"):
                data = source.open(split)
                stream = batches(data, batch_size=2, seed=0)
                print(data.name, split, next(stream)["x"].shape)
                stream.close()
    """
    path = os.pathsep.join([str(trap.parent), str(Path(cfg_jax.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "digits train (2, 8, 8, 1)",
        "digits test (2, 8, 8, 1)",
        "folder train (2, 4, 4, 3)",
        "folder test (2, 4, 4, 3)",
        "moving_digits train (2, 8, 16, 16, 1)",
        "moving_digits test (2, 8, 16, 16, 1)",
    ]
