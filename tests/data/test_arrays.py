"""Images in .npz files: their splits, their vectors, and what is refused."""

import os

import jax
import numpy as np
import pytest
from folders import answered

from cfg_jax.data import Arrays, batches

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)
LABELS = np.arange(20) % 3
VECTORS = RNG.normal(size=(20, 5))
ARRAYS = {
    "label": jax.ShapeDtypeStruct((), np.int32),
    "vector": jax.ShapeDtypeStruct((5,), np.float32),
}


def written(folder, name="data.npz", **arrays):
    np.savez(folder / name, **arrays)
    return str(folder / name)


def opened(path, split="train", *, held_out=0.25, **fields):
    return Arrays(path=path, held_out=held_out, **fields).open(split)


@pytest.fixture
def path(tmp_path):
    return written(tmp_path, image=IMAGES, label=LABELS, vector=VECTORS)


def test_the_splits_share_the_images_out(path):
    train, test = (opened(path, split) for split in ("train", "test"))
    assert (len(train.source), len(test.source)) == (15, 5)
    assert train.shape == test.shape == (4, 6, 3)
    assert train.class_names == test.class_names == ("0", "1", "2")
    assert train.arrays == test.arrays == ARRAYS
    examples = [data.source[i] for data in (train, test) for i in range(len(data.source))]
    for example in examples:
        number = next(i for i in range(20) if np.array_equal(example["x"], IMAGES[i]))
        assert example["label"] == LABELS[number]
        np.testing.assert_array_equal(example["vector"], VECTORS[number].astype(np.float32))
    assert len({example["x"].tobytes() for example in examples}) == 20


def test_a_file_of_its_own_may_be_held_out(path, tmp_path):
    other = written(tmp_path, "test.npz", image=IMAGES[:3], label=[2, 0, 0], vector=VECTORS[:3])
    test = opened(path, "test", test_path=other)
    np.testing.assert_array_equal(test.source.arrays["x"], IMAGES[:3])
    assert len(opened(path, test_path=other).source) == 20
    assert test.class_names == ("0", "1", "2")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    error = answered(lambda: opened(str(tmp_path / "pipe.npz")))
    assert isinstance(error, ValueError)
    assert "pipe.npz is no regular file" in str(error)


def test_labels_and_vectors_may_be_missing_and_classes_have_names(tmp_path):
    plain = opened(written(tmp_path, image=IMAGES))
    assert (plain.class_names, plain.arrays) == ((), {})
    assert set(plain.source[0]) == {"x"}
    named = written(tmp_path, image=IMAGES, label=LABELS, class_names=["cat", "dog", "emu"])
    assert opened(named, "test").class_names == ("cat", "dog", "emu")


def test_vectors_travel_with_their_images_in_batches(path):
    stream = batches(opened(path), batch_size=8, seed=1)
    for _ in range(3):
        batch = next(stream)
        assert batch["vector"].shape == (8, 5)
        for image, vector in zip(batch["x"], batch["vector"], strict=True):
            number = next(i for i in range(20) if np.array_equal(image, IMAGES[i]))
            np.testing.assert_array_equal(vector, VECTORS[number].astype(np.float32))
    stream.close()


def test_any_array_travels_with_its_example(tmp_path):
    beside = {
        "tokens": np.arange(80).reshape(20, 4),
        "mask": RNG.integers(0, 2, (20, 4, 6, 1)).astype(bool),
        "control": RNG.integers(0, 256, (20, 4, 6, 3), dtype=np.uint8),
        "age": RNG.uniform(size=20),
    }
    dtypes = {"tokens": "int32", "mask": "float32", "control": "uint8", "age": "float32"}
    data = opened(written(tmp_path, x=IMAGES, number=np.arange(20), **beside))
    assert {name: (spec.shape, spec.dtype.name) for name, spec in data.arrays.items()} == {
        name: (array.shape[1:], dtypes[name]) for name, array in beside.items()
    } | {"number": ((), "int32")}
    for index in range(len(data.source)):
        example = data.source[index]
        np.testing.assert_array_equal(example["x"], IMAGES[example["number"]])
        for name, array in beside.items():
            expected = array[example["number"]].astype(dtypes[name])
            np.testing.assert_array_equal(example[name], expected)


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (RNG.integers(0, 256, (20, 3, 4, 5, 1), dtype=np.uint8), "uint8"),
        (RNG.integers(-(2**15), 2**15, (20, 50, 2), dtype=np.int16), "int16"),
    ],
)
def test_sounds_and_videos(tmp_path, x, dtype):
    data = opened(written(tmp_path, x=x, rate=4000))
    assert (data.shape, data.dtype, data.rate) == (x.shape[1:], dtype, 4000)
    assert data.facts == Arrays(path=str(tmp_path / "data.npz")).peek()
    assert data.source[0]["x"].dtype == dtype


def test_sounds_are_not_played_backwards(tmp_path):
    path = written(tmp_path, x=np.zeros((20, 50, 1), np.int16))
    with pytest.raises(ValueError, match=r"flip should be False: .* holds sounds"):
        opened(path, flip=True)


def test_every_class_is_trained_on(tmp_path):
    labels = np.array([0] * 10 + [1] * 8 + [2, 3])
    data = opened(written(tmp_path, image=IMAGES, label=labels), held_out=0.5)
    assert {*data.source.arrays["label"].tolist()} == {0, 1, 2, 3}


def test_names_of_bytes_are_text(tmp_path):
    names = np.array(["cat", "caf\u00e9", "two\nlines "])
    for given in (names, np.char.encode(names, "utf-8"), np.char.encode(names, "latin-1")):
        path = written(tmp_path, image=IMAGES, label=LABELS, class_names=given)
        assert opened(path).class_names == ("cat", "caf\u00e9", "two\nlines ")


def test_a_class_without_examples_has_a_name_or_is_refused(tmp_path, caplog):
    bare = written(tmp_path, "bare.npz", image=IMAGES, label=LABELS + 1)
    with pytest.raises(ValueError, match="number the classes from 0 without gaps, and none is 0"):
        opened(bare)
    names = ["none", "a", "b", "c"]
    named = written(tmp_path, "named.npz", image=IMAGES, label=LABELS + 1, class_names=names)
    assert opened(named).class_names == tuple(names)
    assert "1 of 4 classes have no training example, such as 'none'" in caplog.text


def test_the_fingerprint_is_of_the_files(tmp_path):
    first = written(tmp_path, "a.npz", image=IMAGES, label=LABELS)
    same = written(tmp_path, "b.npz", image=IMAGES, label=LABELS)
    other = written(tmp_path, "c.npz", image=IMAGES[::-1], label=LABELS)
    found = [opened(path).fingerprint for path in (first, same, other)]
    assert found[0] == found[1] != found[2]
    assert opened(first, test_path=other).fingerprint == found[0] + found[2]
    assert opened(first, "test", test_path=other).fingerprint == found[0] + found[2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": LABELS}, "holds no x and no image"),
        ({"image": IMAGES, "x": IMAGES}, "holds both x and image"),
        ({"image": IMAGES / 255}, "image in .* should be uint8"),
        ({"image": IMAGES[..., :2]}, r"1 or 2\), got uint8 \(20, 4, 6, 2\)"),
        ({"image": IMAGES, "label": LABELS[:5]}, "should be 20 integers"),
        ({"image": IMAGES, "label": LABELS - 1}, "should be 0 or more, got -1"),
        ({"image": IMAGES, "vector": VECTORS[0]}, r"should be \(20, length\), got \(5,\)"),
        ({"image": IMAGES, "vector": VECTORS * np.inf}, "finite float32 numbers alone"),
        ({"image": IMAGES, "vector": VECTORS * np.nan}, "finite float32 numbers alone"),
        ({"image": IMAGES, "vector": VECTORS + 1e300}, "finite float32 numbers alone"),
        ({"image": IMAGES, "vector": VECTORS + 1j}, "real numbers, got complex128"),
        ({"image": IMAGES, "vector": VECTORS.astype(str)}, "real numbers, got <U"),
        ({"image": IMAGES, "when": np.full(20, "2020", "M8[Y]")}, "when in .* real numbers"),
        (
            {"image": IMAGES, "weight": VECTORS[:9]},
            r"weight in .* should be \(20, …\), got \(9, 5\)",
        ),
        ({"image": IMAGES, "seed": 3}, r"seed in .* should be \(20, …\), got \(\)"),
        ({"image": IMAGES, "tokens": np.full(20, 2**40)}, "at most 2147483647, got 1099511627776"),
        ({"image": IMAGES, "label": np.full(20, 2**40)}, "at most 2147483647, got 1099511627776"),
        ({"image": IMAGES, "label": LABELS / 2}, "should be 20 integers, got float64"),
        ({"image": IMAGES, "label": LABELS + 2_000_000_000 * (LABELS == 2)}, "and none is 2:"),
        (
            {"image": IMAGES, "label": LABELS, "class_names": ["é", "a", "e\u0301"]},
            "'é' stands there",
        ),
        ({"image": IMAGES, "label": LABELS, "class_names": [1, 2, 3]}, "should be text"),
        ({"image": IMAGES, "label": LABELS, "class_names": ["a", "b", "a"]}, "'a' stands there tw"),
        ({"image": IMAGES, "rate": -1}, "rate in .* should be one whole number"),
        ({"image": IMAGES, "rate": [8, 8]}, "rate in .* should be one whole number"),
        ({"image": IMAGES[:0]}, r"got uint8 \(0, 4, 6, 3\)"),
        ({"x": IMAGES.astype(np.int16)}, r"got int16 \(20, 4, 6, 3\)"),
        ({"image": IMAGES, "label": LABELS, "class_names": ["cat"]}, "should be 3 or more, got 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        opened(written(tmp_path, **arrays))


def test_files_and_parts_that_do_not_fit_are_refused(path, tmp_path):
    bare = written(tmp_path, "a.npz", image=IMAGES)
    more = written(tmp_path, "b.npz", image=IMAGES, label=(LABELS + 1) % 4, vector=VECTORS)
    for fields, message in (
        ({"path": str(tmp_path / "none.npz")}, r"none\.npz does not exist"),
        ({"path": str(tmp_path)}, "is a folder, not a file"),
        ({"path": path, "held_out": 0.01}, r"on both sides of 20, got 0\.01"),
        ({"path": path, "test_path": bare}, "should be as those of"),
        ({"path": path, "test_path": more}, "should be below 3, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            Arrays(**fields).open("test")
    with pytest.raises(ValueError, match=r"path should name an \.npz file with x or image and"):
        Arrays()


def test_half_of_a_surrogate_pair_is_named(tmp_path):
    texts = np.array(["a red fox", "half \ud800"])
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 8, 8, 1), np.uint8), text=texts)
    with pytest.raises(ValueError, match=r"example 1 of .*x\.npz: text holds half of a surrogate"):
        Arrays(path=str(tmp_path / "x.npz")).open("train")
