"""CLIP score and R-precision in closed form, and the small CLIP that is kept in a file."""

import dataclasses

import numpy as np
import pytest

from cfg_jax.data import ArraySource, Scenes
from cfg_jax.evaluation import clip_score, r_precision, train_agreement
from cfg_jax.evaluation.agreement_training import agreement_recipe

RNG = np.random.default_rng(0)


def test_the_clip_score_of_known_angles():
    """Unit vectors 0°, 60° and 120° apart: (1 + ½ + 0) / 3."""
    angles = np.deg2rad([0.0, 60.0, 120.0])
    images = 7.0 * np.stack([np.cos(angles), np.sin(angles)], 1)
    texts = np.tile([[0.5, 0.0]], (3, 1))
    assert clip_score(images, texts) == pytest.approx(50.0)
    assert clip_score(images, texts, weight=2.5) == pytest.approx(125.0)
    assert clip_score(np.zeros((2, 2)), texts[:2]) == 0.0


def test_the_r_precision_of_the_right_and_of_the_wrong_texts():
    vectors, names = np.eye(120), [str(i) for i in range(120)]
    assert r_precision(vectors, vectors, names) == 1.0
    assert r_precision(vectors, np.roll(vectors, 1, axis=0), names) == 0.0
    assert r_precision(vectors, -vectors, names) == 0.0


def test_the_r_precision_of_chance_is_one_in_a_hundred():
    images, texts = RNG.normal(size=(2, 4_000, 16))
    found = r_precision(images, texts, [str(i) for i in range(4_000)])
    assert abs(found - 0.01) < 4 * np.sqrt(0.01 * 0.99 / 4_000)


def test_it_is_the_share_that_beats_candidates_drawn_at_random():
    """Own text at rank k of n: no other is better with probability C(n-k, m) / C(n-1, m)."""
    texts = np.stack([np.cos(np.linspace(0, 1, 11)), np.sin(np.linspace(0, 1, 11))], 1)
    images = np.tile(texts[:1], (11, 1))  # text j is the (j + 1)-th nearest to every image
    names = [str(i) for i in range(11)]
    found = np.mean([r_precision(images, texts, names, candidates=2, seed=s) for s in range(400)])
    want = np.mean([(10 - k) * (9 - k) / (10 * 9) for k in range(11)])
    assert found == pytest.approx(want, abs=0.02)
    same = [r_precision(images, texts, names, candidates=2, seed=3) for _ in range(2)]
    assert same[0] == same[1]


def test_embeddings_that_are_all_alike_win_nothing():
    assert r_precision(np.ones((9, 2)), np.ones((9, 2)), list("abcdefghi"), candidates=3) == 0.0


def test_no_candidate_says_what_the_own_text_does():
    """Ten images of two sentences: each has one candidate, the other sentence."""
    names = ["a", "b"] * 5
    vectors = np.eye(2)[[0, 1] * 5]
    assert r_precision(vectors, vectors, names, candidates=1) == 1.0
    with pytest.raises(ValueError, match="2 candidates need as many texts that differ"):
        r_precision(vectors, vectors, names, candidates=2)


def test_candidates_come_from_a_pool():
    images = np.eye(3)[:1]
    texts, pool = np.array([[1.0, 1.0, 0.0]]), np.array([[0.0, 1.0, 0.0], [1.0, 0.2, 0.0]])
    assert r_precision(images, texts, ["a"], pool=pool, pool_names=["b", "c"], candidates=2) == 0.0
    assert r_precision(images, texts, ["a"], pool=pool, pool_names=["b", "a"], candidates=1) == 1.0


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda: clip_score(np.ones((2, 3)), np.ones((2, 4))), "texts must have the shape"),
        (lambda: clip_score(np.ones((0, 3)), np.ones((0, 3))), "images must be finite vectors"),
        (lambda: clip_score(np.full((1, 2), np.nan), np.ones((1, 2))), "images must be finite"),
        (lambda: r_precision(np.ones((2, 3)), np.ones((2, 3)), ["a"]), "names must be 2"),
        (
            lambda: r_precision(np.ones((1, 3)), np.ones((1, 3)), ["a"], pool=np.ones((2, 3))),
            "pool must have a name a row",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(monkeypatch, score, message):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        score()


@pytest.fixture(scope="module")
def scenes():
    kind = Scenes(scenes=160)
    train, held_out = kind.open("train"), kind.open("test")
    few = ArraySource({name: array[:32] for name, array in train.source.arrays.items()})
    return dataclasses.replace(train, source=few), held_out


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def scorer(scenes, place):
    return train_agreement(*scenes, steps=2, batch=16, cache=place, progress=False)


@pytest.mark.slow
def test_it_is_trained_once_and_kept(scenes, place, scorer, monkeypatch):
    (file,) = place.iterdir()
    monkeypatch.setattr("cfg_jax.evaluation.agreement_training._train", None)
    again = train_agreement(*scenes, steps=2, batch=16, cache=place, progress=False)
    assert again.held_out_r_precision == scorer.held_out_r_precision
    assert again.held_out_clip_score == scorer.held_out_clip_score
    x = scenes[1].source.arrays["x"]
    np.testing.assert_array_equal(again.images(x), scorer.images(x))
    np.testing.assert_array_equal(again.texts(["a red one"]), scorer.texts(["a red one"]))
    for changed in ({"seed": 1}, {"learning_rate": 1e-3}):
        with pytest.raises(TypeError):  # it would be trained
            train_agreement(*scenes, **{"steps": 2, "batch": 16, "cache": place} | changed)
    file.write_bytes(b"damaged")
    with pytest.raises(TypeError):
        train_agreement(*scenes, steps=2, batch=16, cache=place)


@pytest.mark.slow
def test_scores_are_those_of_the_embeddings(scenes, scorer):
    x = scenes[1].source.arrays["x"]
    first = [texts[0] for texts in scenes[1].source.arrays["text"]]
    image, text = scorer.images(x), scorer.texts(first)
    found = scorer(x, first)
    assert found["clip_score"] == pytest.approx(clip_score(image, text))
    assert found["r_precision"] == scorer.held_out_r_precision
    floats = x.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(scorer.images(floats), image, atol=1e-5)
    np.testing.assert_allclose(scorer.images(x[:3]), image[:3], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1.0, rtol=1e-4)


@pytest.mark.slow
def test_captions_of_one_example_say_the_same(scenes, scorer):
    for texts in scenes[1].source.arrays["text"]:
        assert len({scorer.says[text] for text in texts}) == 1
    assert len(scorer.pool) == len(set(scorer.says.values()))


@pytest.mark.slow
def test_what_the_scorer_cannot_take_is_refused(scenes, scorer):
    x = scenes[1].source.arrays["x"]
    for given, captions, message in [
        (x[:, :8], ["a"] * len(x), "pictures must have shape"),
        (x[:2], ["a"], "captions must be 2, got 1"),
        (np.full((1, 32, 32, 3), np.nan), ["a"], "NaN or infinities"),
    ]:
        with pytest.raises(ValueError, match=message):
            scorer(given, captions)


def test_data_without_captions_are_refused(scenes):
    bare = dataclasses.replace(scenes[0], texts=())
    with pytest.raises(ValueError, match="scenes has no captions"):
        train_agreement(bare, scenes[1])


def test_the_network_fits_the_pictures(scenes):
    config = agreement_recipe(scenes[0], "text")
    assert config.network.channel_mult == (1, 2, 4)
    assert config.network.attention_resolutions == (8,)
    assert config.condition.text.length == 30
    odd = dataclasses.replace(scenes[0], shape=(30, 50, 1))
    assert agreement_recipe(odd, "text").network.channel_mult == (1, 2)
