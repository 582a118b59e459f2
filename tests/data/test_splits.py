import collections

import numpy as np
import pytest

from cfg_jax.data.splits import of_files, of_labels


def test_the_held_out_split():
    files = [f"class/{n}.png" for n in range(4000)]
    chosen = of_files(files, 0.1)
    assert abs(len(chosen) - 400) < 5 * np.sqrt(4000 * 0.1 * 0.9)
    assert of_files(files[::-1], 0.1) == chosen
    assert of_files(files[:3000], 0.1) == chosen & set(files[:3000])
    assert chosen < of_files(files, 0.2)


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_neither_split_is_empty(fraction):
    for count in (2, 3):
        chosen = of_files([f"class/{n}.png" for n in range(count)], fraction)
        assert 0 < len(chosen) < count


def test_a_share_of_every_class_is_held_out():
    files = [f"{name}/{n}.png" for name, size in enumerate((400, 900, 25)) for n in range(size)]
    counts = collections.Counter(file[0] for file in of_files(files, 0.2))
    for name, size in zip("012", (400, 900, 25), strict=True):
        assert abs(counts[name] - 0.2 * size) < 5 * np.sqrt(size * 0.2 * 0.8)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_each_class_keeps_a_file_and_gives_one_where_its_share_is_one(fraction):
    for seed in range(20):
        sizes = {f"{seed}-{size}": size for size in (1, 2, 3, 10, 100)}
        files = [f"{name}/{n}.png" for name, size in sizes.items() for n in range(size)]
        counts = collections.Counter(f.split("/")[0] for f in of_files(files, fraction))
        assert counts
        for name, size in sizes.items():
            assert counts[name] < size or counts[name] == 0
            assert counts[name] >= min(int(fraction * size >= 1), size - 1)


def test_of_one_file_a_class_beside_a_pair_the_pair_is_split():
    assert of_files(["a/0", "b/0", "c/0", "c/1"], 1e-9) in ({"c/0"}, {"c/1"})


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5, 0.9])
def test_labels_are_held_out_in_proportion(fraction):
    labels = np.random.default_rng(0).choice([3, 5, 9, 11], 207, p=[0.02, 0.18, 0.3, 0.5])
    chosen = of_labels(labels, fraction)
    assert chosen.sum() == round(fraction * len(labels))
    for label, size in zip(*np.unique(labels, return_counts=True), strict=True):
        held = chosen[labels == label].sum()
        assert held < size
        assert abs(held - fraction * size) <= 1
    np.testing.assert_array_equal(of_labels(labels, fraction), chosen)


def test_no_class_is_held_out_whole():
    chosen = of_labels(np.array([0, 1, 2, 2, 2, 2]), 0.5)
    assert not chosen[:2].any()
    assert chosen.sum() == 3
    with pytest.raises(ValueError, match="should leave examples of each class on both sides"):
        of_labels(np.arange(10), 0.5)
    with pytest.raises(ValueError, match=r"should leave examples on both sides of 10, got 0\.01"):
        of_labels(np.zeros(10, int), 0.01)
