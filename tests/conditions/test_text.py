"""Captions: tokens on the host, an encoder that is trained along, padding that nobody sees."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import captioned, smallest

from cfg_jax import conditions, recipe
from cfg_jax.blueprint import blueprint
from cfg_jax.conditions import Text, together
from cfg_jax.diffusion.condition import KEPT
from cfg_jax.model import Model
from cfg_jax.parts import Facts, Sequence
from cfg_jax.run import shown_as
from cfg_jax.sampling import fronts
from cfg_jax.text import CLIPText, Tokenizer, Tokens, weights

FACTS = Facts((8, 8, 1), texts=("text",))
CAPTIONS = ["a red three", "a blue seven left of a red three", "a white one below a red two"]
ENCODER = CLIPText(width=8, layers=1, heads=2, activation="gelu", pool="argmax")


def text(**fields):
    made = Text(vocabulary=300, length=12, encoder=ENCODER, **fields)
    return made.bind("text", FACTS)


def tiny():
    config = recipe.default()
    smallest(config)
    captioned(config, length=12)
    config.network.attention_resolutions = (8,)
    config.sample.steps = 2
    return config


def drawn(config):
    """A model whose every parameter is random: one that starts at zero would hide the text."""
    plan = blueprint(
        config, FACTS, data=types.SimpleNamespace(captions={"text": CAPTIONS}.__getitem__)
    )
    shapes = jax.eval_shape(plan.init, jax.random.key(0))
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    values = [0.3 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return Model(**plan.model(jax.tree.unflatten(structure, values)))


@pytest.fixture(scope="module")
def model():
    return drawn(tiny())


def asked(model, captions):
    """What the network says of one z under captions."""
    cond = model.condition(text=captions)
    z = jax.random.normal(jax.random.key(3), (1, 8, 8, 1))
    z = jnp.broadcast_to(z, (len(captions), 8, 8, 1))
    return model.denoiser(z, jnp.zeros(len(captions)), cond)


def test_it_is_shown_as_a_masked_sequence():
    assert text().inlet == Sequence(12, 8, masked=True)


def test_data_without_such_texts_are_refused():
    line = "caption is a Text, and the data have no such texts; they have text"
    with pytest.raises(ValueError, match=line):
        Text(encoder=ENCODER).bind("caption", FACTS)


def test_the_tokenizer_is_learned_from_the_data_and_kept_as_bytes():
    held = text().learned(iter(CAPTIONS))
    assert held["tokenizer"].dtype == np.uint8
    tokens = text().given(["a red three", ""], held)
    assert tokens.ids.shape == (2, 12)
    assert tokens.mask.sum(1).tolist()[1] == 2
    again = text().learned(iter(CAPTIONS[::-1]))
    np.testing.assert_array_equal(held["tokenizer"], again["tokenizer"])
    assert text().frozen() == {}


def test_the_null_is_a_token_that_no_text_has():
    held = text().learned(iter(CAPTIONS))
    every = "".join(map(chr, range(1, 256)))
    tokens = dataclasses.replace(text(), length=2000).given([every, *CAPTIONS], held)
    null = text().null
    assert null.ids[0] == 300 > tokens.ids.max()
    assert null.mask.tolist() == [True] + [False] * 11


@pytest.mark.parametrize("value", [3, [1, 2], [["a"]], None, b"a", np.array([1.5])])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(ValueError, match="text must be sentences, got"):
        text().given(value, text().learned(iter(CAPTIONS)))


def test_texts_are_taken_as_one_a_list_an_array_or_tokens():
    held = text().learned(iter(CAPTIONS))
    wanted = text().given(["a red three"], held)
    for value in ("a red three", ("a red three",), np.array(["a red three"]), wanted):
        got = text().given(value, held)
        assert isinstance(got, Tokens)
        np.testing.assert_array_equal(got.ids, wanted.ids)


def test_the_text_decides_what_the_network_says(model):
    a, b, again = asked(model, ["a red three", "a blue seven", "a red three"])
    assert float(jnp.abs(a - b).max()) > 1e-3
    np.testing.assert_allclose(a, again, atol=1e-6)


@pytest.mark.slow
def test_padding_changes_nothing(model):
    """Another pad, and more of it, give the same ε."""
    tokens = model._given({"text": ["a red three"]})["text"]
    z, level = jax.random.normal(jax.random.key(3), (1, 8, 8, 1)), jnp.zeros(1)
    cond = model._encoded({"text": tokens})
    wanted = model.denoiser(z, level, cond)
    for pad in (0, 7, 299):
        other = Tokens(np.where(tokens.mask, tokens.ids, pad), tokens.mask)
        np.testing.assert_allclose(
            model.denoiser(z, level, model._encoded({"text": other})), wanted, atol=1e-5
        )
    vectors, mask = cond["text"]
    hidden = jnp.where(mask[..., None], vectors, 1e3)
    np.testing.assert_allclose(
        model.denoiser(z, level, {"text": type(cond["text"])(hidden, mask)}), wanted, atol=1e-5
    )


def test_the_empty_text_and_the_null_are_finite_and_differ(model):
    null = jax.tree.map(lambda leaf: leaf[None], model.null)
    z, level = jnp.ones((1, 8, 8, 1)), jnp.zeros(1)
    none = model.denoiser(z, level, null)
    empty = model.denoiser(z, level, model.condition(text=[""]))
    assert bool(jnp.isfinite(none).all() & jnp.isfinite(empty).all())
    assert float(jnp.abs(none - empty).max()) > 1e-4


def test_a_text_that_guidance_does_not_hide_is_no_null(model):
    ((name, made),) = model.conditioners
    kept = dataclasses.replace(
        model, conditioners=((name, dataclasses.replace(made, guided=False)),)
    )
    assert kept.null == {"text": KEPT}
    x = kept.sample(jax.random.key(0), text=CAPTIONS, w=0.0)
    want = model.sample(jax.random.key(0), text=CAPTIONS, w=0.0)
    np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_guidance_is_between_the_text_and_what_stands_in_its_place(model):
    z, level = jax.random.normal(jax.random.key(4), (2, 8, 8, 1)), jnp.zeros(2)
    cond = model.condition(text=CAPTIONS[:2])

    def eps(shown):
        return model.denoiser(z, level, shown)

    null = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), model.null)
    for negative, away in (
        (None, null),
        ({"text": ["a white one"]}, model.condition(text=["a white one"] * 2)),
        ({"text": CAPTIONS[1:]}, model.condition(text=CAPTIONS[1:])),
    ):
        plain = dataclasses.replace(model, sampling=model.sampling._replace(clip=lambda d, _: d))
        got = plain.guided(3.0, negative=negative)(z, level, cond)
        np.testing.assert_allclose(got, eps(cond) + 3.0 * (eps(cond) - eps(away)), atol=1e-4)


def test_another_prompt_negative_or_strength_compiles_nothing(model):
    def draw(prompt, negative, w):
        return model.sample(jax.random.key(0), text=prompt, negative={"text": [negative]}, w=w)

    first = draw(CAPTIONS[:2], "a white one", 1.0)
    compiled = fronts._jitted._cache_size(), together._encoded._cache_size()
    other = draw(CAPTIONS[1:], "a blue nine", 2.5)
    assert (fronts._jitted._cache_size(), together._encoded._cache_size()) == compiled
    assert not np.array_equal(first, other)


def weighing(model, convention):
    """The model, reading weights of words by a convention."""
    ((name, made),) = model.conditioners
    return dataclasses.replace(
        model, conditioners=((name, dataclasses.replace(made, weights=convention)),)
    )


@pytest.mark.parametrize("convention", ["a1111", "a1111_no_norm", "comfyui"])
def test_weights_of_words_multiply_what_the_network_attends_to(model, convention):
    vectors, mask = (np.asarray(part[0]) for part in model.condition(text="a red three")["text"])
    got = weighing(model, convention).condition(text="(a red three:1.5)")["text"]
    w = np.ones((12, 1), np.float32)
    w[1 : mask.sum() - 1] = 1.5  # its beginning and its end stay
    empty = np.asarray(model.condition(text="")["text"].vectors[0])
    wanted = {
        "a1111": vectors * w * vectors.mean() / (vectors * w).mean(),
        "a1111_no_norm": vectors * w,
        "comfyui": empty + w * (vectors - empty),
    }[convention]
    np.testing.assert_allclose(got.vectors[0], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got.mask[0], mask)


@pytest.mark.parametrize("convention", ["a1111", "a1111_no_norm", "comfyui"])
def test_weights_of_one_and_the_null_are_as_without_a_convention(model, convention):
    other = weighing(model, convention)
    for a, b in [
        (model.condition(text=CAPTIONS), other.condition(text=CAPTIONS)),
        (model.null, other.null),
    ]:
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_brackets_are_text_where_no_convention_is_named(model):
    plain, bracketed = (model.condition(text=t)["text"] for t in ("a red", "(a red:1.5)"))
    assert bracketed.mask.sum() > plain.mask.sum()


def test_another_weight_compiles_nothing(model):
    other = weighing(model, "comfyui")
    key = jax.random.key(0)
    other.sample(key, text=["a (red:1.5) three", "a blue two"], negative={"text": "red"}, w=1.0)
    before = fronts._sharded._cache_size(), together._encoded._cache_size()
    other.sample(key, text=["a red three", "(a blue:0.3) two"], negative={"text": "(red)"}, w=2.0)
    assert (fronts._sharded._cache_size(), together._encoded._cache_size()) == before


def test_a_weighted_prompt_that_is_too_long_is_cut_with_a_warning(model, caplog):
    got = weighing(model, "a1111").condition(text=["(" + "a red " * 20 + ")", "a red"])["text"]
    assert got.vectors.shape[:2] == (2, 12)
    assert bool(got.mask[0].all())
    assert "1 of 2 texts are longer than 10 tokens, and cut" in caplog.text


LONG = CAPTIONS[1]


def of(held):
    """The tokenizer that was learned."""
    return Tokenizer.from_json(bytes(held["tokenizer"]).decode())


def in_chunks(**fields):
    """Captions over three rows, and what they need beside them."""
    made = text(chunks=3, **fields)
    return made, {**made.learned(iter(CAPTIONS)), "encoder": made.begun(jax.random.key(0))}


@pytest.mark.parametrize("caption", [LONG, CAPTIONS[0], ""])
@pytest.mark.slow
def test_chunks_of_a_caption_are_encoded_each_by_itself_and_laid_side_by_side(caption):
    made, held = in_chunks()
    assert made.inlet == Sequence(36, 8, masked=True)
    got = made.encoded(held, made.given([caption, LONG], held))
    rows = of(held).chunks(caption, at_least=3)
    assert rows.ids.shape == (3, 12)
    wanted = made.encoder.apply(held["encoder"], *rows).sequence
    np.testing.assert_allclose(got.vectors[0], wanted.reshape(36, 8), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got.mask[0], rows.mask.ravel())


def test_weights_of_words_count_in_their_own_chunk():
    """A1111 keeps the mean of a chunk, not of the prompt."""
    made, held = in_chunks(weights="a1111")
    prompt = f"(red:1.5) {LONG}"
    got = made.encoded(held, made.given([prompt], held)).vectors[0]
    tokens, laid = weights.weighted(prompt, of(held), "a1111", at_least=3)
    assert [bool((row != 1).any()) for row in laid] == [True, False, False]
    z = made.encoder.apply(held["encoder"], *tokens).sequence
    for row in range(3):
        weighed = weights.weigh(z[row : row + 1], laid[row : row + 1], "a1111")[0]
        np.testing.assert_allclose(got[12 * row :][:12], weighed, rtol=1e-5, atol=1e-5)


def test_the_null_is_each_chunks_and_what_no_chunk_holds_is_cut(caplog):
    made, held = in_chunks()
    null = made.null
    assert null.ids.tolist() == [300] * 36
    assert null.mask.tolist() == 3 * ([True] + [False] * 11)
    assert made.given([LONG], held).ids.shape == (1, 36)
    assert caplog.text == ""
    made.given([4 * LONG], held)
    assert "1 of 1 texts are longer than 30 tokens; cut off:" in caplog.text


def test_the_network_attends_to_every_chunk():
    config = tiny()
    config.condition.text.chunks = 3
    whole, other, again = asked(drawn(config), [LONG, LONG[:-5] + "white", LONG])
    assert float(jnp.abs(whole - other).max()) > 1e-4
    np.testing.assert_allclose(whole, again, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocabulary", 400),
        ("folder", "clip"),
        ("pretrained", "clip"),
        ("encoder", recipe.node(CLIPText, width=8, layers=1, heads=2, causal=False)),
    ],
)
def test_sampling_changes_nothing_that_the_encoder_was_trained_with(model, field, value):
    config = tiny()
    config.condition.text.weights = "comfyui"
    assert dict(shown_as(model, config))["text"].weights == "comfyui"
    config.condition.text[field] = value
    with pytest.raises(ValueError, match=rf"config\.condition\.text\.{field} must stay"):
        shown_as(model, config)


def test_training_hides_whole_captions_as_often_as_it_is_told():
    made = (("text", text(p_uncond=0.25)),)
    held = made[0][1].learned(iter(CAPTIONS))
    tokens = jax.tree.map(jnp.asarray, made[0][1].given(["a red three"] * 1000, held))
    keys = jax.random.split(jax.random.key(0), 1000)
    nulls = conditions.hidden_null(made)
    shown = conditions.hidden(keys, {"text": tokens}, nulls, {"text": 0.25}, {"text": True})
    gone = shown["text"].ids[:, 0] == 300
    assert 0.2 < float(gone.mean()) < 0.3
    np.testing.assert_array_equal(shown["text"].mask.sum(1)[gone], 1)
    np.testing.assert_array_equal(shown["text"].ids[~gone], tokens.ids[~gone])


def test_prompts_come_from_a_line_or_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red three\na blue seven\n", encoding="utf-8")
    assert text().parse("a red three") == ["a red three"]
    assert text().parse(f"@{tmp_path / 'prompts.txt'}") == ["a red three", "a blue seven"]
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="holds no sentence"):
        text().parse(f"@{tmp_path / 'empty.txt'}")
    (tmp_path / "marked.txt").write_bytes("\ufeffa red\u2028three\x0c\r\n\nb\n".encode())
    assert text().parse(f"@{tmp_path / 'marked.txt'}") == ["a red\u2028three\x0c", "", "b"]
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="holds no sentence"):
        text().parse(f"@{tmp_path / 'empty.txt'}")
    with pytest.raises(ValueError, match="@ names no file"):
        text().parse("@")
    with pytest.raises(ValueError, match=r"none\.txt does not exist"):
        text().parse(f"@{tmp_path / 'none.txt'}")
    with pytest.raises(ValueError, match="/dev/zero is no regular file"):
        text().parse("@/dev/zero")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"picture\.png cannot be read as text in UTF-8"):
        text().parse(f"@{tmp_path / 'picture.png'}")
