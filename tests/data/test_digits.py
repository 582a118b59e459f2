from collections import Counter

import jax
import numpy as np
import pytest
from disk import full
from sklearn.datasets import load_digits

from cfg_jax.data import Digits


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    source = Digits(dir=str(tmp_path_factory.mktemp("digits")))
    return {split: source.open(split) for split in ("train", "test")}


def _multiset(images, labels):
    return Counter(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


def _examples(dataset):
    examples = [dataset.source[i] for i in range(len(dataset.source))]
    return [e["x"] for e in examples], [e["label"] for e in examples]


def test_the_splits_partition_scikit_learns_digits(splits):
    digits = load_digits()
    # Rounding in whole numbers: (2 · 255 v + 16) // 32 is 255 v / 16 to the nearest.
    images = ((510 * digits.images.astype(int) + 16) // 32).astype(np.uint8)[..., None]
    whole = _multiset(images, digits.target)
    train, test = _multiset(*_examples(splits["train"])), _multiset(*_examples(splits["test"]))
    assert train + test == whole
    assert (train.total(), test.total()) == (1437, 360)


def test_the_test_split_is_a_fifth_of_every_class(splits):
    held_out = Counter(map(int, _examples(splits["test"])[1]))
    for digit, count in Counter(load_digits().target.tolist()).items():
        assert abs(held_out[digit] - count / 5) < 1


def test_examples_and_their_description(splits):
    for split, dataset in splits.items():
        example = dataset.source[0]
        assert example["x"].shape == dataset.shape == (8, 8, 1)
        assert example["x"].dtype == np.uint8
        assert example["label"].dtype == np.int32
        assert (dataset.name, dataset.split) == ("digits", split)
        assert dataset.class_names == tuple("0123456789")
        assert dataset.num_classes == 10


def test_another_preparation_gives_the_same_examples(splits, source):
    again = source(Digits).open("test")
    for first, second in zip(_examples(splits["test"]), _examples(again), strict=True):
        np.testing.assert_array_equal(first, second)


def test_other_splits_are_refused(source):
    with pytest.raises(ValueError, match="split should be train or test, got 'valid'"):
        source(Digits).open("valid")


def test_the_dataset_is_peeked_at(splits, source):
    facts = source(Digits).peek()
    assert facts == splits["train"].facts
    assert (facts.shape, facts.dtype, facts.rate) == ((8, 8, 1), "uint8", 0)
    assert facts.class_names == tuple("0123456789")
    assert facts.arrays == {"label": jax.ShapeDtypeStruct((), np.int32)}


def test_a_full_disk_is_told_in_one_line(tmp_path):
    """TFDS makes a RuntimeError of it, with the system's words somewhere within."""
    with full(10_000), pytest.raises(ValueError, match="File too large") as error:
        Digits(dir=str(tmp_path)).open("train")
    assert str(error.value).startswith(f"digits cannot be prepared in {tmp_path}/digits/1.0.0 (")
    assert "\n" not in str(error.value)
    assert len(Digits(dir=str(tmp_path)).open("train").source) == 1437  # nothing half made is left
