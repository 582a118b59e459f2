"""Images in .npz files: their splits, their vectors, and what is refused."""

import dataclasses

import numpy as np
import pytest

from cfg_jax.data import batches, open_dataset

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)
LABELS = np.arange(20) % 3
VECTORS = RNG.normal(size=(20, 5))


@dataclasses.dataclass
class Settings:
    path: str
    test_path: str = ""
    held_out: float = 0.25
    name: str = "npz"


def written(folder, name="data.npz", **arrays):
    np.savez(folder / name, **arrays)
    return str(folder / name)


@pytest.fixture
def path(tmp_path):
    return written(tmp_path, image=IMAGES, label=LABELS, vector=VECTORS)


def test_the_splits_share_the_images_out(path):
    train, test = (open_dataset(Settings(path), split=split) for split in ("train", "test"))
    assert (len(train.source), len(test.source)) == (15, 5)
    assert train.shape == test.shape == (4, 6, 3)
    assert train.class_names == test.class_names == ("0", "1", "2")
    assert train.vector == test.vector == 5
    examples = [data.source[i] for data in (train, test) for i in range(len(data.source))]
    for example in examples:
        number = next(i for i in range(20) if np.array_equal(example["image"], IMAGES[i]))
        assert example["label"] == LABELS[number]
        np.testing.assert_array_equal(example["vector"], VECTORS[number].astype(np.float32))
    assert len({example["image"].tobytes() for example in examples}) == 20


def test_a_file_of_its_own_may_be_held_out(path, tmp_path):
    other = written(tmp_path, "test.npz", image=IMAGES[:3], label=[2, 0, 0], vector=VECTORS[:3])
    test = open_dataset(Settings(path, other), split="test")
    np.testing.assert_array_equal(test.source.images, IMAGES[:3])
    assert len(open_dataset(Settings(path, other), split="train").source) == 20
    assert test.class_names == ("0", "1", "2")


def test_labels_and_vectors_may_be_missing_and_classes_have_names(tmp_path):
    plain = open_dataset(Settings(written(tmp_path, image=IMAGES)), split="train")
    assert (plain.class_names, plain.vector) == ((), 0)
    assert set(plain.source[0]) == {"image", "label"}
    named = written(tmp_path, image=IMAGES, label=LABELS, class_names=["cat", "dog", "emu"])
    assert open_dataset(Settings(named), split="test").class_names == ("cat", "dog", "emu")


def test_vectors_travel_with_their_images_in_batches(path):
    stream = batches(open_dataset(Settings(path), split="train"), batch_size=8, seed=1)
    for _ in range(3):
        batch = next(stream)
        assert batch["vector"].shape == (8, 5)
        for image, vector in zip(batch["image"], batch["vector"], strict=True):
            number = next(i for i in range(20) if np.array_equal(image, IMAGES[i]))
            np.testing.assert_array_equal(vector, VECTORS[number].astype(np.float32))
    stream.close()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": LABELS}, "holds no image"),
        ({"image": IMAGES / 255}, "image in .* should be uint8"),
        ({"image": IMAGES[..., :2]}, r"1 or 3\), got uint8 \(20, 4, 6, 2\)"),
        ({"image": IMAGES, "label": LABELS[:5]}, "should be 20 integers"),
        ({"image": IMAGES, "label": LABELS - 1}, "should be 0 or more, got -1"),
        ({"image": IMAGES, "vector": VECTORS[0]}, r"should be \(20, length\), got \(5,\)"),
        ({"image": IMAGES, "vector": VECTORS * np.inf}, "finite numbers alone"),
        ({"image": IMAGES, "label": LABELS, "class_names": ["cat"]}, "should be 3 or more, got 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(Settings(written(tmp_path, **arrays)), split="train")


def test_files_and_parts_that_do_not_fit_are_refused(path, tmp_path):
    for settings, message in (
        (Settings(""), "the npz dataset needs path"),
        (Settings(str(tmp_path / "none.npz")), "cannot be read as an .npz file"),
        (Settings(path, held_out=0.0), "held_out should leave images on both sides of 20, got 0.0"),
        (Settings(path, written(tmp_path, "a.npz", image=IMAGES)), "should be as those of"),
        (
            Settings(
                path, written(tmp_path, "b.npz", image=IMAGES, label=LABELS + 1, vector=VECTORS)
            ),
            "should be below 3, got 3",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            open_dataset(settings, split="test")
