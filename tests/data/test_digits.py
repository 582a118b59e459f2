from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cfg_jax.data import open_dataset


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    config = SimpleNamespace(
        name="digits", dir=str(tmp_path_factory.mktemp("digits")), image_size=0, skip_bad=False
    )
    return {split: open_dataset(config, split=split) for split in ("train", "test")}


def _multiset(images, labels):
    return Counter(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


def _examples(dataset):
    examples = [dataset.source[i] for i in range(len(dataset.source))]
    return [e["image"] for e in examples], [e["label"] for e in examples]


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
        assert example["image"].shape == dataset.shape == (8, 8, 1)
        assert example["image"].dtype == np.uint8
        assert example["label"].dtype == np.int32
        assert (dataset.name, dataset.split) == ("digits", split)
        assert dataset.class_names == tuple("0123456789")
        assert dataset.num_classes == 10


def test_another_preparation_gives_the_same_examples(splits, config):
    again = open_dataset(config("digits"), split="test")
    for first, second in zip(_examples(splits["test"]), _examples(again), strict=True):
        np.testing.assert_array_equal(first, second)


def test_image_size_cannot_change(config):
    with pytest.raises(ValueError, match="image_size should be 0 or 8, got 32"):
        open_dataset(config("digits", image_size=32), split="train")
    assert open_dataset(config("digits", image_size=8), split="train").shape == (8, 8, 1)
