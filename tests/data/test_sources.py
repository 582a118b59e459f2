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

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from cfg_jax.data import open_dataset, sources
from cfg_jax.data.sources import ArraySource, RecordSource, UnreadableError


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


class Catalogue(tfds.core.GeneratorBasedBuilder):
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


class ValidatedCatalogue(Catalogue):
    splits: ClassVar = {"train": _images([(4, 5)] * 3), "validation": _images([(4, 5)] * 2)}


class UntestedCatalogue(Catalogue):
    splits: ClassVar = {"train": _images([(4, 5)] * 3)}


class MixedCatalogue(Catalogue):
    shape = (None, None, 3)
    splits: ClassVar = {"train": _images([(8, 12), (9, 6), (6, 6)]), "test": _images([(7, 7)])}


class GreyCatalogue(Catalogue):
    shape = (4, 5, 1)
    splits: ClassVar = {"train": _images([(4, 5)] * 3, channels=1)}


class PaletteCatalogue(Catalogue):
    """As ImageNet does, holds files that are stored otherwise than the features say."""

    colours = _images([(4, 5)])[0] & 0b11000000
    splits: ClassVar = {"train": [Image.fromarray(colours).quantize(64), Image.new("L", (5, 4), 9)]}


def _half_a_jpeg():
    Image.fromarray(_images([(4, 5)])[0]).save(file := io.BytesIO(), "JPEG")
    return file.getvalue()[: file.tell() - 40]


class DamagedCatalogue(Catalogue):
    """Its records are sound, what they hold is not always an image of the right size."""

    splits: ClassVar = {"train": _images([(4, 5)] * 5 + [(5, 4), (4, 5)])}
    splits["train"][1] = _half_a_jpeg()
    splits["train"][4] = b"not an image"


class RuinedCatalogue(Catalogue):
    splits: ClassVar = {"train": [b"not an image"] * 3}


class UnlabelledCatalogue(Catalogue):
    label = None


class UnpublishedCatalogue(Catalogue):
    labels = (0, -1)


class TextCatalogue(Catalogue):
    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self, images):
        yield 0, {"text": "no image"}


@pytest.fixture
def catalogue(config):
    """Prepares one of the builders above and returns the config that opens it."""

    def make(builder, **changes):
        settings = config(f"tfds:{builder.name}", **changes)
        builder(data_dir=settings.dir).download_and_prepare(file_format="array_record")
        return settings

    return make


def _examples(dataset):
    return [dataset.source[i] for i in range(len(dataset.source))]


def _assert_holds(dataset, images, labels):
    for example, image, label in zip(_examples(dataset), images, labels, strict=True):
        np.testing.assert_array_equal(example["image"], image)
        assert example["image"].dtype == np.uint8
        assert example["label"] == label
        assert example["label"].dtype == np.int32


def test_a_prepared_catalogue_dataset(catalogue):
    settings = catalogue(Catalogue)
    train = open_dataset(settings, split="train")
    _assert_holds(train, Catalogue.splits["train"], [0, 1] * 3)
    assert train.shape == (4, 5, 3)
    assert (train.class_names, train.num_classes) == (("cat", "dog"), 2)
    assert (train.name, train.split) == ("tfds:catalogue", "train")
    _assert_holds(open_dataset(settings, split="test"), Catalogue.splits["test"], [0, 1])


def test_large_datasets_stay_on_disk(catalogue, monkeypatch):
    settings = catalogue(MixedCatalogue, image_size=5)
    small = open_dataset(settings, split="train")
    assert isinstance(small.source, ArraySource)
    monkeypatch.setattr(sources, "_IN_MEMORY", 3 * 5 * 5 * 3 - 1)
    large = open_dataset(settings, split="train")
    assert isinstance(large.source, RecordSource)
    again = pickle.loads(pickle.dumps(large))
    for dataset in (large, again):
        _assert_holds(dataset, small.source.images, small.source.labels)


def test_images_of_many_sizes_are_resized_and_cropped(catalogue):
    dataset = open_dataset(catalogue(MixedCatalogue, image_size=6), split="train")
    wide, tall, exact = MixedCatalogue.splits["train"]
    bicubic = Image.Resampling.BICUBIC
    wide = np.asarray(Image.fromarray(wide).resize((9, 6), bicubic))[:, 1:7]
    tall = tall[1:7]
    assert dataset.shape == (6, 6, 3)
    _assert_holds(dataset, [wide, tall, exact], [0, 1, 0])


def test_images_of_many_sizes_need_image_size(catalogue):
    with pytest.raises(ValueError, match="tfds:mixed_catalogue differ in size: set image_size"):
        open_dataset(catalogue(MixedCatalogue), split="train")


def test_grey_images(catalogue):
    dataset = open_dataset(catalogue(GreyCatalogue), split="train")
    assert dataset.shape == (4, 5, 1)
    _assert_holds(dataset, GreyCatalogue.splits["train"], [0, 1, 0])


def test_every_file_is_made_what_the_features_say(catalogue):
    dataset = open_dataset(catalogue(PaletteCatalogue), split="train")
    expected = [np.asarray(file.convert("RGB")) for file in PaletteCatalogue.splits["train"]]
    np.testing.assert_array_equal(expected[0], PaletteCatalogue.colours)
    _assert_holds(dataset, expected, [0, 1])


def test_unlabelled_images_have_no_classes(catalogue):
    dataset = open_dataset(catalogue(UnlabelledCatalogue), split="train")
    assert (dataset.class_names, dataset.num_classes) == ((), 0)
    _assert_holds(dataset, Catalogue.splits["train"], [0] * 6)


def test_validation_stands_in_for_test(catalogue):
    dataset = open_dataset(catalogue(ValidatedCatalogue), split="test")
    _assert_holds(dataset, ValidatedCatalogue.splits["validation"], [0, 1])


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


def _flipped(config, name, position):
    """Flips one bit of a prepared split's file; returns the records its reader then refuses."""
    (file,) = Path(config.dir).glob(f"*/1.0.0/*{name}.array_record*")
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


def test_bad_images_are_named(catalogue, monkeypatch):
    settings = catalogue(DamagedCatalogue)
    named = "tfds:damaged_catalogue train: example {} cannot be read \\({}\\)"
    _assert_unreadable(
        lambda: open_dataset(settings, split="train"), f"{named.format(1, REASONS[1])}; {SKIPPING}"
    )
    monkeypatch.setattr(sources, "_IN_MEMORY", 0)
    source = open_dataset(settings, split="train").source
    for index, image in enumerate(DamagedCatalogue.splits["train"]):
        if index in REASONS:
            _assert_unreadable(lambda i=index: source[i], named.format(index, REASONS[index]))
        else:
            np.testing.assert_array_equal(source[index]["image"], image)


def test_bad_images_are_left_out_of_memory_and_counted_if_so_said(catalogue, caplog):
    settings = catalogue(DamagedCatalogue, skip_bad=True)
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(settings, split="train")
    kept = [0, 2, 3, 6]
    _assert_holds(dataset, [DamagedCatalogue.splits["train"][i] for i in kept], [0, 0, 1, 0])
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "left out 3 of 7 examples as unreadable, such as tfds:damaged_catalogue train: example 1 "
    )


@pytest.mark.parametrize("skip_bad", [False, True])
def test_nothing_but_bad_images_is_refused(catalogue, skip_bad):
    settings = catalogue(RuinedCatalogue, skip_bad=skip_bad)
    message = "example 0 cannot be read .*; skip_bad"
    if skip_bad:
        message = "none of 3 examples can be read, such as tfds:ruined_catalogue train: example 0"
    with pytest.raises(ValueError, match=message):
        open_dataset(settings, split="train")


@pytest.mark.parametrize("position", [33_000, 40_000, 45_000])
def test_one_flipped_bit_costs_one_record(config, monkeypatch, position):
    settings = config("digits")
    whole = open_dataset(settings, split="train").source
    (bad,) = _flipped(settings, "train", position)
    message = rf"digits train: example {bad} cannot be read \(RuntimeError: Corrupted .* hash .*\)"
    _assert_unreadable(lambda: open_dataset(settings, split="train"), f"{message}; {SKIPPING}")
    settings.skip_bad = True
    rest = open_dataset(settings, split="train").source
    np.testing.assert_array_equal(rest.images, np.delete(whole.images, bad, axis=0))
    np.testing.assert_array_equal(rest.labels, np.delete(whole.labels, bad))
    monkeypatch.setattr(sources, "_IN_MEMORY", 0)
    stored = open_dataset(settings, split="train").source
    _assert_unreadable(lambda: stored[bad], message)
    np.testing.assert_array_equal(stored[bad + 1]["image"], whole.images[bad + 1])


@pytest.mark.parametrize("damage", ["cut", "emptied", "removed"])
def test_every_record_of_a_lost_file_is_named(config, monkeypatch, damage):
    monkeypatch.setattr(sources, "_IN_MEMORY", 0)
    open_dataset(settings := config("digits"), split="test")
    (file,) = Path(settings.dir).glob("*/1.0.0/*test.array_record*")
    size = file.stat().st_size
    if damage == "removed":
        file.unlink()
    else:
        os.truncate(file, size // 2 if damage == "cut" else 0)
    source = open_dataset(settings, split="test").source
    for index in (0, 359):
        message = rf"digits test: example {index} cannot be read \((Runtime|Value)Error: .*\)"
        _assert_unreadable(lambda i=index: source[i], message)


# What is refused.


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (UntestedCatalogue, "tfds:untested_catalogue has no test split: it has train"),
        (UnpublishedCatalogue, "catalogue test: example 1 is unlabelled, as may be the whole"),
        (TextCatalogue, "tfds:text_catalogue has no feature named image of 8-bit images"),
    ],
)
def test_unsuitable_datasets_are_refused(catalogue, builder, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(catalogue(builder), split="test")


def test_a_format_without_random_access_is_refused(catalogue):
    settings = catalogue(Catalogue)
    info = Path(settings.dir) / "catalogue" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="without random access: set another dir") as error:
        open_dataset(settings, split="train")
    assert str(info.parent) in str(error.value)


@pytest.mark.parametrize(
    "name", ["nonesuch", "cifar10/nonesuch", "cifar10:9.9.9", "", "not a name", "nowhere:cifar10"]
)
def test_unknown_names_are_refused_in_one_line(config, name):
    with pytest.raises(ValueError, match="names no dataset that TFDS can open") as error:
        open_dataset(config(f"tfds:{name}"), split="train")
    assert str(error.value).startswith(f"tfds:{name} names")
    assert "\n" not in str(error.value)


def test_preparing_without_tensorflow_is_refused(config, monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    message = r"preparing tfds:cifar10 needs TensorFlow: pip install 'cfg-jax\[prepare\]' \(reading"
    with pytest.raises(ValueError, match=message):
        open_dataset(settings := config("tfds:cifar10"), split="train")
    assert not os.path.exists(Path(settings.dir) / "cifar10")


def test_another_missing_package_is_named(config, monkeypatch):
    def _generate_examples(self, images):
        raise ModuleNotFoundError("No module named 'mutagen'", name="mutagen")

    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: "found")
    monkeypatch.setattr(Catalogue, "_split_generators", _generate_examples)
    with pytest.raises(ValueError, match="preparing tfds:catalogue needs mutagen: pip install"):
        open_dataset(config("tfds:catalogue"), split="train")


def test_preparing_at_the_same_time_as_another_process(config, monkeypatch):
    settings = config("tfds:catalogue")
    alone = Catalogue._generate_examples
    others = []

    def _generate_examples(self, images):
        if not others:
            others.append(Catalogue(data_dir=settings.dir))
            others[0].download_and_prepare(file_format="array_record")
        return alone(self, images)

    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: "found")
    monkeypatch.setattr(Catalogue, "_generate_examples", _generate_examples)
    dataset = open_dataset(settings, split="train")
    assert others
    _assert_holds(dataset, Catalogue.splits["train"], [0, 1] * 3)


@pytest.mark.parametrize(
    ("name", "changes", "split", "message"),
    [
        ("digits", {}, "valid", "split should be train or test, got 'valid'"),
        ("cifar10", {}, "train", "digits, folder, npz or tfds:NAME, got 'cifar10'"),
    ],
)
def test_what_is_not_a_dataset_is_refused(config, name, changes, split, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(config(name, **changes), split=split)


def test_a_negative_image_size_is_refused(catalogue):
    with pytest.raises(ValueError, match=r"image_size should be 0 \(as stored\) or more, got -8"):
        open_dataset(catalogue(Catalogue, image_size=-8), split="train")


def test_the_home_folder_may_be_abbreviated(config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    open_dataset(config("digits", dir="~/here"), split="test")
    assert (tmp_path / "here" / "digits").exists()


def test_digits_and_folders_never_import_tensorflow(tmp_path):
    trap = tmp_path / "trap" / "tensorflow"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    for label in ("cat", "dog"):
        for index in range(4):
            path = tmp_path / "images" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    program = f"""
        from ml_collections import ConfigDict
        from cfg_jax.data import batches, open_dataset
        for name, path in (("digits", ""), ("folder", {str(tmp_path / "images")!r})):
            config = ConfigDict(dict(name=name, path=path, test_path="", dir={str(tmp_path)!r},
                                     image_size=0, channels=3, held_out=0.5, skip_bad=False))
            for split in ("train", "test"):
                stream = batches(open_dataset(config, split=split), batch_size=2, seed=0, flip=True)
                print(name, split, next(stream)["image"].shape)
                stream.close()
    """
    path = os.pathsep.join([str(trap.parent), str(Path(sources.__file__).parents[2])])
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
    ]
