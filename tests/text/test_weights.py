"""Weighted prompts, as A1111 and ComfyUI read and apply them."""

import clip_folders
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from cfg_jax.text import tokenizer, weights

RNG = np.random.default_rng(0)

A1111 = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    "[unbalanced": [("unbalanced", 1 / 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    r"a\\b\c": [(r"a\bc", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.3 * 1.1**2),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.1**4),
        (".", 1.1),
    ],
    "((a:0.5)b:2.0)": [("a", 1.0), ("b", 2.0)],
    "[a]": [("a", 1 / 1.1)],
    "[a:0.5]": [("a:0.5", 1 / 1.1)],
    "(a:-1.5) (b: +.5 )": [("a", -1.5), (" ", 1.0), ("b", 0.5)],
    "(a:b:1.5)": [("a:b", 1.5)],
    "a:1.5": [("a:1.5", 1.0)],
    "a:1.5) b]": [("a:1.5) b]", 1.0)],
    "(a:1.2.3)": [("a:1.2.3", 1.1)],
    "([a)b]": [("a", 1.0), ("b", 1 / 1.1)],
    "": [("", 1.0)],
    "()": [("", 1.0)],
}

COMFYUI = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "((a:0.5)b:2.0)": [("a", 0.5), ("b", 2.0)],
    "((a) b)": [("a", 1.1**2), (" b", 1.1)],
    "((a) b:0.5)": [("a", 1.1 * 0.5), (" b", 0.5)],
    "[a] (b:1.2)": [("[a] ", 1.0), ("b", 1.2)],
    r"\(a\) (b\):1.5)": [("(a) ", 1.0), ("b)", 1.5)],
    "(a:-1.5)": [("a", -1.5)],
    "(a:b:1.5)": [("a:b", 1.5)],
    "(a:b)": [("a:b", 1.1)],
    "(a:nan) (b:inf)": [("a:nan", 1.1), (" ", 1.0), ("b:inf", 1.1)],
    "(:1.3)": [(":1.3", 1.1)],
    "(unbalanced": [("(unbalanced", 1.0)],
    "a) (b:2)": [("a) (b:2)", 1.0)],
    "a:1.5": [("a:1.5", 1.0)],
    "": [("", 1.0)],
    "()": [("", 1.0)],
}


@pytest.mark.parametrize(
    ("convention", "prompt", "want"),
    [
        *(("a1111", *case) for case in A1111.items()),
        *(("a1111_no_norm", *case) for case in A1111.items()),
        *(("comfyui", *case) for case in COMFYUI.items()),
    ],
)
def test_prompts_are_read_as_the_convention_reads_them(convention, prompt, want):
    got = weights.parse(prompt, convention)
    assert [text for text, _ in got] == [text for text, _ in want]
    np.testing.assert_allclose([w for _, w in got], [w for _, w in want], rtol=1e-12)


@pytest.mark.parametrize("convention", weights.CONVENTIONS)
def test_any_text_is_a_prompt(convention):
    """Brackets in any order lose no letter."""
    for _ in range(200):
        prompt = "".join(RNG.choice(list("ab()[]:\\ 1."), 30))
        parts = weights.parse(prompt, convention)
        kept = "".join(text for text, _ in parts)
        assert kept.count("a") == prompt.count("a")
        assert kept.count("b") == prompt.count("b")
        assert np.isfinite([weight for _, weight in parts]).all()


def test_brackets_within_brackets_have_an_end():
    assert weights.parse("(" * 100 + "a:1.0" + ")" * 100, "comfyui") == [("a", 1.0)]
    with pytest.raises(ValueError, match="100 brackets within brackets"):
        weights.parse("(" * 9_000 + "a" + ")" * 9_000, "comfyui")


def test_a_convention_is_named(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    z, w = jnp.ones((1, 2, 3)), jnp.ones((1, 2))
    for wrong in ("", "A1111", None, "compel"):
        with pytest.raises(ValueError, match="convention must be one of a1111, a1111_no_norm, com"):
            weights.parse("a", wrong)
        with pytest.raises(ValueError, match="convention must be one of"):
            weights.weigh(z, w, wrong)
    with pytest.raises(ValueError, match=r"comfyui weighs .* empty must be given"):
        weights.weigh(z, w, "comfyui")


@pytest.fixture
def clip(tmp_path):
    folder = clip_folders.write(tmp_path, clip_folders.TINY_MERGES)
    return tokenizer.clip(folder, length=6)


def test_each_token_has_the_weight_of_its_piece(clip):
    tokens, w = weights.weighted("red (fox:1.5)", clip, "a1111")
    red, fox = clip.ids("red")[0], clip.ids("fox")[0]
    assert tokens.ids.tolist() == [[clip.bos, red, fox] + [clip.eos] * 3]
    assert tokens.mask.tolist() == [[True] * 4 + [False] * 2]
    np.testing.assert_allclose(w, [[1, 1, 1.5, 1, 1, 1]])
    tokens, w = weights.weighted("red " * 3 + "(red fox fox:-1) red", clip, "comfyui")
    assert tokens.ids[:, 1:5].tolist() == [[red] * 4, [fox, fox, red, clip.eos]]
    np.testing.assert_allclose(w, [[1, 1, 1, 1, -1, 1], [1, -1, -1, 1, 1, 1]])
    plain = weights.weighted("", clip, "a1111")
    assert plain[0].ids.tolist() == clip([""]).ids.tolist()
    assert (plain[1] == 1).all()


def test_it_works_without_a_beginning():
    learned = tokenizer.learned(["red fox"] * 2, size=300, length=5)
    import dataclasses

    bare = dataclasses.replace(learned, bos=None)
    tokens, w = weights.weighted("(red:2) fox", bare, "a1111")
    count = bare.count("red")
    assert tokens.ids[0, 0] == bare.ids("red")[0]
    assert w[0].tolist() == [2.0] * count + [1.0] * (5 - count)


Z = jnp.asarray(RNG.normal(0.5, 1.0, (3, 4, 5)), jnp.float32)
EMPTY = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)
W = jnp.asarray([[1, 1.5, -1, 1], [1, 1, 1, 1], [0.5, 2, 1, 0]], jnp.float32)


def test_a1111_multiplies_and_restores_each_rows_mean():
    got = np.asarray(weights.weigh(Z, W, "a1111"), np.float64)
    scaled = np.asarray(Z, np.float64) * np.asarray(W)[..., None]
    np.testing.assert_allclose(got.mean((1, 2)), Z.mean((1, 2)), rtol=1e-5)
    ratio = got / np.where(scaled == 0, 1, scaled)
    for row in range(3):
        kept = ratio[row][scaled[row] != 0]
        np.testing.assert_allclose(kept, kept[0], rtol=1e-5)
    np.testing.assert_allclose(weights.weigh(Z, W, "a1111_no_norm"), scaled, rtol=1e-6)


def test_comfyui_weighs_the_distance_from_the_empty_text():
    got = weights.weigh(Z, W, "comfyui", empty=EMPTY)
    z, empty, w = (np.asarray(x, np.float64) for x in (Z, EMPTY, W[..., None]))
    np.testing.assert_allclose(got, (z - empty) * w + empty, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[2, 3], EMPTY[3], atol=1e-6)


@pytest.mark.parametrize("convention", weights.CONVENTIONS)
def test_weights_of_one_change_no_bit(convention):
    weigh = jax.jit(lambda w: weights.weigh(Z, w, convention, empty=EMPTY))
    np.testing.assert_array_equal(weigh(jnp.ones((3, 4))), Z)
    np.testing.assert_array_equal(weigh(W)[1], Z[1])


@pytest.mark.parametrize("convention", weights.CONVENTIONS)
def test_a_prompt_does_not_change_its_neighbour(convention):
    together = weights.weigh(Z, W, convention, empty=EMPTY)
    for row in range(3):
        rows = slice(row, row + 1)
        alone = weights.weigh(Z[rows], W[rows], convention, empty=EMPTY)
        np.testing.assert_allclose(together[rows], alone, rtol=1e-6)


def test_weights_of_zero_stay_finite():
    for convention in weights.CONVENTIONS:
        got = weights.weigh(Z, jnp.zeros((3, 4)), convention, empty=EMPTY)
        assert np.isfinite(got).all()


def test_no_restoring_keeps_a_mean_near_zero_from_exploding():
    """SDXL's states: a small change of the mean's sign would turn the whole prompt around."""
    z = Z - Z.mean((1, 2), keepdims=True) + 1e-4
    w = jnp.ones((3, 4)).at[:, 1].set(1.3)
    plain = weights.weigh(z, w, "a1111_no_norm")
    assert np.abs(plain - z).max() <= 0.31 * np.abs(z).max()
    assert np.abs(weights.weigh(z, w, "a1111") - z).max() > 0.5 * np.abs(z).max()


@pytest.mark.parametrize("convention", weights.CONVENTIONS)
@pytest.mark.parametrize("number", ["1e39", "-2000000", "9" * 400])
def test_words_weigh_no_more_than_a_float_can_hold(convention, number):
    """A1111 knows no exponents: "(a:1e39)" is text there."""
    if "e" in number and convention != "comfyui":
        assert weights.parse(f"(a:{number})", convention) == [(f"a:{number}", 1.1)]
    elif convention == "comfyui" and len(number) == 400:  # no float at all: text
        assert weights.parse(f"(a:{number})", convention)[0][1] == 1.1
    else:
        with pytest.raises(ValueError, match="words must weigh from -1,000,000 to 1,000,000, got"):
            weights.parse(f"(a:{number})", convention)


def test_weights_of_other_rows_and_prompts_that_are_no_text_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    z = RNG.normal(size=(1, 4, 3))
    for wrong in (np.ones((2, 4)), np.ones(4), np.ones((1, 3))):
        with pytest.raises(ValueError, match=r"weights must be one a vector of \(1, 4, 3\), got"):
            weights.weigh(z, wrong, "a1111_no_norm")
    for wrong in (None, 3, b"a"):
        with pytest.raises(ValueError, match="prompt must be a text, got"):
            weights.parse(wrong, "a1111")
