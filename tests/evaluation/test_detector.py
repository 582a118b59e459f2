"""The detector of digits in scenes: what it learns from, what its cells mean, and what it finds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.data import Scenes
from cfg_jax.data.samples import to_float
from cfg_jax.data.scene_captions import parsed
from cfg_jax.data.scenes import CELLS, COLOURS, DIGIT_SIDE, HELD_PAIRS, SIDE
from cfg_jax.evaluation import agrees, composing, train_detector
from cfg_jax.evaluation import detector as room
from cfg_jax.evaluation.detector_network import Cells
from cfg_jax.evaluation.features import local_shardings

pytestmark = pytest.mark.slow

QUICK = {"steps": 2, "batch": 8, "progress": False}


@pytest.fixture(scope="module")
def data():
    scenes = Scenes(scenes=600)
    return scenes.open("train"), scenes.open("test")


@pytest.fixture(scope="module")
def of(data):
    arrays = data[0].source.arrays
    return composing.stencils(arrays["x"], arrays["objects"])


@pytest.fixture(scope="module")
def composed(of):
    scenes = jax.jit(composing.compose, static_argnums=2)(jax.random.key(0), of, 200)
    return jax.tree.map(np.asarray, scenes)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "made"


@pytest.fixture(scope="module")
def trained(data, cache):
    return train_detector(*data, cache=cache, **QUICK)


def digits_of(scenes, i):
    """(digit, colour, row, column) of each digit of a composed scene, from the top down."""
    row, column = np.nonzero(scenes.there[i])
    kinds = [said[i][row, column] for said in (scenes.digit, scenes.colour)]
    return np.column_stack([*kinds, DIGIT_SIDE * row, DIGIT_SIDE * column])


def test_stencils_in_their_colours_make_the_scenes_again(data, of):
    arrays, number = data[0].source.arrays, 0
    levels = np.array(list(COLOURS.values()), np.float32)
    for x, objects in zip(arrays["x"][:50], arrays["objects"][:50], strict=True):
        again = np.zeros(x.shape, np.float32)
        for digit, colour, row, column in objects[objects[:, 0] >= 0]:
            assert of.digit[number] == digit
            ink = of.ink[number][..., None] * levels[colour]
            again[row : row + DIGIT_SIDE, column : column + DIGIT_SIDE] += ink
            number += 1
        np.testing.assert_allclose(again, x, atol=1.3)


def test_composed_scenes_have_each_digit_in_its_colour_at_its_place_and_nothing_else(composed, of):
    levels = np.array(list(COLOURS.values()), float) / 255
    least = of.ink.sum((1, 2)).min()
    light = (composed.x + 1) / 2
    for i in range(200):
        rest = light[i].copy()
        for _, colour, row, column in digits_of(composed, i).astype(int):
            assert 0 <= min(row, column) <= max(row, column) <= SIDE - DIGIT_SIDE
            part = rest[row : row + DIGIT_SIDE, column : column + DIGIT_SIDE]
            bright = part.reshape(-1, 3)[part.sum(-1).argmax()]
            hue = np.minimum(bright / bright.max(), 1)
            np.testing.assert_allclose(
                hue, levels[int(colour)] / levels[int(colour)].max(), atol=0.35
            )
            assert part.max(-1).sum() > 0.4 * least
            part[:] = 0
        assert rest.max() < 0.2  # noise of at most 0.025
    assert composed.x.shape == (200, SIDE, SIDE, 3)


def test_composed_scenes_have_all_colours_and_places_alike(composed):
    counts = composed.there.sum((1, 2))
    assert 0.57 < counts.mean() / CELLS**2 < 0.63
    assert composed.there.mean(0).min() > 0.45
    every = np.concatenate([digits_of(composed, i) for i in range(200)])
    pairs = {(int(c), int(d)) for d, c in every[:, :2]}
    assert pairs >= HELD_PAIRS
    assert len(pairs) > 55


def test_no_digit_is_distorted_past_knowing(of):
    ink = jnp.asarray(of.ink[:40])[None, None]
    same = np.asarray(composing.distorted(jax.random.key(1), ink))[0, 0]
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(of.ink, same, strict=False)]
    assert np.mean(alike) > 0.8
    assert max(alike) < 0.9999


def ideal(scenes, count):
    """The cells that say all of composed scenes, rightly and surely."""
    there = np.where(scenes.there[:count], 30.0, -30.0)
    digit, colour = (
        30.0 * np.eye(kinds)[said[:count]]
        for kinds, said in ((10, scenes.digit), (6, scenes.colour))
    )
    return there, digit, colour


def test_cells_that_say_all_have_the_least_loss_and_are_read_back(composed):
    said = ideal(composed, 40)
    for i in range(40):
        np.testing.assert_array_equal(room._decoded(*(s[i] for s in said)), digits_of(composed, i))
    some = jax.tree.map(lambda leaf: jnp.asarray(leaf[:40]), composed)
    cells = [jnp.asarray(each, jnp.float32) for each in said]
    least = float(room._loss(Cells(*cells, None), some))
    assert least == pytest.approx(0.0, abs=1e-6)
    wrong = (-cells[0], *(jnp.roll(each, 1, axis=-1) for each in cells[1:]))
    for place, loss in enumerate((30.0, 30.0, 30.0)):
        other = [wrong[n] if n == place else each for n, each in enumerate(cells)]
        assert float(room._loss(Cells(*other, None), some)) == pytest.approx(loss, rel=1e-3)


def test_what_stands_in_cells_without_a_digit_does_not_count(composed):
    some = jax.tree.map(lambda leaf: jnp.asarray(leaf[:40]), composed)
    there, digit, colour = (jnp.asarray(each, jnp.float32) for each in ideal(composed, 40))
    empty = ~some.there[..., None]
    other = Cells(there, jnp.where(empty, -digit, digit), jnp.where(empty, -colour, colour), None)
    assert float(room._loss(other, some)) == pytest.approx(0.0, abs=1e-6)


def test_a_cell_is_read_by_itself(trained, data):
    x = np.array(to_float(data[1].source.arrays["x"][:1]))
    other = x.copy()
    other[:, :DIGIT_SIDE] = 0.7
    one, two = (trained.module.apply(trained.params, jnp.asarray(each)) for each in (x, other))
    np.testing.assert_allclose(one.digit[:, 1:], two.digit[:, 1:], atol=1e-5)
    assert np.abs(one.digit[:, 0] - two.digit[:, 0]).max() > 1e-3


def test_a_picture_without_digits_has_none():
    empty = room._decoded(np.full((4, 4), -0.1), np.zeros((4, 4, 10)), np.zeros((4, 4, 6)))
    assert empty.shape == (0, 4)


def test_scenes_are_read_alike_stored_and_as_floats_in_any_number(trained, data):
    x = data[1].source.arrays["x"]
    found, features = trained.found_and_features(x)
    assert (len(found), features.shape) == (60, (60, 64))
    _, some = trained.found_and_features(to_float(x[7:9]))
    np.testing.assert_allclose(some, features[7:9], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        trained.features(1.5 * to_float(x[:2])),
        trained.features(np.clip(1.5 * to_float(x[:2]), -1, 1)),
    )
    cells = trained.module.apply(trained.params, jnp.asarray(to_float(x[:3])))
    np.testing.assert_allclose(features[:3], cells.features.mean((1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            np.zeros((2, 32, 31, 3)),
            r"scenes must have shape \(n, 32, 32, 3\), got \(2, 32, 31, 3\)",
        ),
        (np.zeros((0, 32, 32, 3)), "shape"),
        (np.full((1, 32, 32, 3), np.nan), "NaN"),
    ],
)
def test_what_is_no_scene_is_refused(trained, x, message):
    with pytest.raises(ValueError, match=message):
        trained.found(x)


def test_the_file_serves_the_same_data_and_settings_alone(trained, data, cache, monkeypatch):
    calls = []
    monkeypatch.setattr(room, "_train", lambda *given: calls.append(given) or trained.params)
    again = train_detector(*data, cache=cache, **QUICK)
    assert not calls
    assert again.held_out_accuracy == trained.held_out_accuracy
    assert jax.tree.all(jax.tree.map(np.array_equal, again.params, trained.params))
    train_detector(*data, cache=cache, **(QUICK | {"steps": 3}))
    fewer = dataclasses.replace(data[1], source=Scenes(scenes=500).open("test").source)
    train_detector(data[0], fewer, cache=cache, **QUICK)
    assert len(calls) == 2
    (file,) = (path for path in cache.iterdir() if again_at(path, trained))
    file.write_bytes(file.read_bytes()[:-40])
    train_detector(*data, cache=cache, **QUICK)
    assert len(calls) == 3


def again_at(path, trained):
    """Whether the first detector's file, which is the oldest."""
    return path.stat().st_mtime_ns == min(p.stat().st_mtime_ns for p in path.parent.iterdir())


def test_data_without_objects_are_refused(data):
    plain = dataclasses.replace(data[0], arrays={})
    with pytest.raises(ValueError, match="scenes are no scenes"):
        train_detector(plain, data[1], **QUICK)


def test_the_devices_change_no_parameter(data):
    """Of 8 devices each has one of 8 scenes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "local_shardings", lambda count=None: local_shardings(1))
        alone = train_detector(*data, **QUICK)
    shared = train_detector(*data, **QUICK)
    for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(shared.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)


@pytest.fixture(scope="module")
def learned(optimised):
    """After a tenth of what `evaluate` trains it for, and held-out scenes."""
    scenes = Scenes(scenes=4_000)
    held_out = scenes.open("test")
    few = {"steps": 160, "batch": 16, "progress": False}
    return train_detector(scenes.open("train"), held_out, **few), held_out


def test_scenes_of_digits_never_seen_are_read_and_held_out_pairs_as_well(learned):
    detector, held_out = learned
    arrays = held_out.source.arrays
    assert detector.held_out_accuracy > 0.9
    found = detector.found(arrays["x"])
    right = np.array(list(map(room.shows, found, arrays["objects"])))
    assert right.mean() == detector.held_out_accuracy
    assert right[arrays["novel"] == 1].mean() > right[arrays["novel"] == 0].mean() - 0.05


def test_real_scenes_agree_with_their_captions_as_often_as_they_are_read(learned):
    detector, held_out = learned
    arrays = held_out.source.arrays
    found = detector.found(arrays["x"])
    for form in (0, 1):
        wanted = [parsed(texts[form]) for texts in arrays["text"]]
        share = np.mean(list(map(agrees, found, wanted)))
        assert share == pytest.approx(detector.held_out_accuracy, abs=0.005)
