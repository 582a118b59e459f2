"""Samples against a reference: each score from its pieces, and what is kept between calls."""

import numpy as np
import pytest
from fake_inception import fake_inception

from cfg_jax.evaluation import (
    compare,
    frechet_distance,
    inception_score,
    kernel_distance,
    measure,
    measure_once,
    moments,
    open_archive,
    precision_recall,
)
from cfg_jax.evaluation import comparison as room

RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 200, (60, 8, 8, 3), dtype=np.uint8)
FAKE = RNG.integers(40, 256, (50, 8, 8, 3), dtype=np.uint8)
STATISTICS = {
    "mu": np.arange(6.0),
    "sigma": np.diag(np.arange(1.0, 7.0)),
    "mu_s": np.arange(4.0),
    "sigma_s": np.eye(4),
}


def archive(folder, name="file.npz", **arrays):
    np.savez(folder / name, **arrays)
    return open_archive(folder / name)


@pytest.fixture
def measured(tmp_path):
    both = (archive(tmp_path, arr_0=images) for images in (FAKE, REAL))
    return [measure(a, fake_inception, batch=16, progress=False) for a in both]


def test_each_score_is_that_of_the_features(measured):
    samples, real = measured
    scores = compare(samples, real)
    ours, theirs = fake_inception(FAKE), fake_inception(REAL)
    assert scores["fid"] == pytest.approx(
        frechet_distance(moments(ours.pool), moments(theirs.pool)), rel=1e-9
    )
    assert scores["sfid"] == pytest.approx(
        frechet_distance(moments(ours.spatial), moments(theirs.spatial)), rel=1e-9
    )
    order = np.random.default_rng(0).permutation(50)
    mean, deviation = inception_score(ours.logits[order], splits=10)
    assert (scores["is"], scores["is_std"]) == pytest.approx((mean, deviation))
    mean, deviation = kernel_distance(ours.pool, theirs.pool, subset_size=50)
    assert (scores["kid"], scores["kid_std"]) == pytest.approx((mean, deviation), rel=1e-9)
    precision, recall = precision_recall(theirs.pool, ours.pool)
    assert (scores["precision"], scores["recall"]) == (precision, recall)
    assert precision != recall
    assert list(scores) == [
        *("fid", "fid_bias", "sfid", "is", "is_std", "kid", "kid_std", "precision", "recall")
    ]


def test_only_the_scores_asked_for_are_computed(measured):
    assert set(compare(*measured, ["sfid", "pr"])) == {"sfid", "precision", "recall"}
    assert set(compare(measured[0], None, ["is"])) == {"is", "is_std"}


def test_a_set_is_at_no_distance_from_itself(measured):
    scores = compare(measured[0], measured[0])
    assert scores["fid"] == pytest.approx(0.0, abs=1e-6)
    assert scores["sfid"] == pytest.approx(0.0, abs=1e-6)
    assert scores["kid"] == pytest.approx(-2.0 * self_excess(measured[0].features), rel=1e-9)
    assert (scores["precision"], scores["recall"]) == (1.0, 1.0)


def self_excess(x):
    """How much the mean kernel of all pairs exceeds that of pairs of different samples."""
    kernel = (x @ x.T / x.shape[1] + 1.0) ** 3
    m = len(x)
    return kernel.mean() - (kernel.sum() - np.trace(kernel)) / (m * (m - 1))


def test_statistics_beside_images_are_what_fid_takes(tmp_path):
    both = archive(tmp_path, arr_0=REAL, **STATISTICS)
    measured = measure(both, fake_inception, progress=False)
    assert measured.pool is both.pool
    assert measured.spatial is both.spatial
    np.testing.assert_allclose(measured.features, fake_inception(REAL).pool)


@pytest.mark.parametrize(
    ("held", "metrics", "needed"),
    [
        ("mu sigma", {"fid"}, False),
        ("mu sigma", {"fid", "sfid"}, True),
        ("mu sigma mu_s sigma_s", {"fid", "sfid"}, False),
        ("mu sigma mu_s sigma_s", {"fid", "kid"}, True),
        ("", {"fid"}, True),
        ("", set(), False),
    ],
)
def test_the_network_is_run_only_where_statistics_do_not_do(tmp_path, held, metrics, needed):
    arrays = {name: STATISTICS[name] for name in held.split()}
    assert room.needs_images(archive(tmp_path, arr_0=REAL, **arrays), metrics) == needed


ALL = set(room.METRICS)


@pytest.mark.parametrize(
    ("samples", "reference", "possible"),
    [
        ("arr_0", "arr_0", ALL),
        ("arr_0", "mu sigma", {"fid", "is"}),
        ("arr_0", "mu sigma mu_s sigma_s", {"fid", "sfid", "is"}),
        ("mu sigma", "mu sigma", {"fid"}),
        ("mu sigma", "arr_0", {"fid"}),
        ("arr_0", None, {"is"}),
        ("mu sigma", None, set()),
    ],
)
def test_what_two_files_allow(tmp_path, samples, reference, possible):
    arrays = {"arr_0": REAL, **STATISTICS}
    ours = archive(tmp_path, "a.npz", **{name: arrays[name] for name in samples.split()})
    theirs = reference and archive(
        tmp_path, "b.npz", **{name: arrays[name] for name in reference.split()}
    )
    obstacles = room.obstacles(ours, theirs)
    assert ALL - set(obstacles) == possible
    for reason in obstacles.values():
        assert "a.npz" in reason or "b.npz" in reason or reason == "there is no reference"


def test_images_of_different_sizes_are_refused(tmp_path):
    ours, theirs = (
        archive(tmp_path, "a.npz", arr_0=REAL),
        archive(tmp_path, "b.npz", arr_0=REAL[:, 1:]),
    )
    with pytest.raises(ValueError, match=r"a\.npz holds images of 8×8, .*b\.npz of 7×8"):
        room.check_sizes(ours, theirs)
    room.check_sizes(ours, archive(tmp_path, "c.npz", **STATISTICS))


def test_few_samples_are_told_by_how_much_they_are_biased():
    """Gaussian features: the bias for n samples is what many sets of n exceed the limit by."""
    rng = np.random.default_rng(0)
    real = moments(rng.normal(size=(200_000, 3)))
    sets = [rng.normal(size=(100, 3)) for _ in range(300)]
    exact = [frechet_distance(moments(x), real) for x in sets]
    told = [room.fid_bias(x, real, fid=d) for x, d in zip(sets, exact, strict=True)]
    assert np.mean(told) == pytest.approx(np.mean(exact), rel=0.15)


def test_samples_in_order_of_class_are_halved_fairly():
    """Every second sample would be of one class alone."""
    x = np.random.default_rng(0).normal(size=(400, 2)) + 100.0 * (np.arange(400) % 2)[:, None]
    real = moments(x)
    assert abs(room.fid_bias(x, real, fid=0.0)) < 300


def test_enough_samples_are_told_nothing(measured, monkeypatch):
    monkeypatch.setattr(room, "ENOUGH", 50)
    assert "fid_bias" not in compare(*measured)


def test_unknown_scores_and_missing_pieces_are_refused(measured):
    with pytest.raises(ValueError, match="there is no score 'fdd'; there are fid, sfid"):
        compare(*measured, ["fid", "fdd"])
    with pytest.raises(ValueError, match="a score needs the pool"):
        compare(measured[0], None, ["fid"])


@pytest.fixture
def counting():
    calls = []

    def function(images):
        calls.append(len(images))
        return fake_inception(images)

    return function, calls


OPTIONS = {"weights": "abc", "batch": 16, "progress": False}


def test_a_reference_is_measured_once(tmp_path, counting):
    function, calls = counting
    real = archive(tmp_path, arr_0=REAL)
    first = measure_once(real, function, cache=tmp_path / "cache", **OPTIONS)
    done = len(calls)
    again = measure_once(real, function, cache=tmp_path / "cache", **OPTIONS)
    assert len(calls) == done
    samples = measure(archive(tmp_path, "b.npz", arr_0=FAKE), function, progress=False)
    assert compare(samples, again) == compare(samples, first)


def test_other_images_or_weights_are_measured_anew(tmp_path, counting):
    function, calls = counting
    done = 0
    for name, images, weights in (("a", REAL, "abc"), ("b", FAKE, "abc"), ("a", REAL, "abd")):
        found = archive(tmp_path, f"{name}.npz", arr_0=images)
        measure_once(found, function, cache=tmp_path, **(OPTIONS | {"weights": weights}))
        assert len(calls) > done
        done = len(calls)


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [flip, lambda c: c[:100], lambda c: b""])
def test_damaged_features_are_measured_again(tmp_path, counting, damage):
    function, calls = counting
    real, cache = archive(tmp_path, arr_0=REAL), tmp_path / "cache"
    first = measure_once(real, function, cache=cache, **OPTIONS)
    (kept,) = cache.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    done = len(calls)
    again = measure_once(real, function, cache=cache, **OPTIONS)
    assert len(calls) > done
    np.testing.assert_array_equal(again.features, first.features)


def test_features_of_something_else_under_this_name_are_not_believed(tmp_path, counting):
    function, calls = counting
    real, cache = archive(tmp_path, arr_0=REAL), tmp_path / "cache"
    measure_once(real, function, cache=cache, **OPTIONS)
    (kept,) = cache.iterdir()
    measure_once(real, function, cache=cache, **(OPTIONS | {"weights": "other"}))
    (other,) = set(cache.iterdir()) - {kept}
    other.replace(kept)
    done = len(calls)
    measure_once(real, function, cache=cache, **OPTIONS)
    assert len(calls) > done
