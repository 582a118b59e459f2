"""The towers: put together by hand from their parts, and what each embedding depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_variables

from cfg_jax.networks import Encoder, Towers
from cfg_jax.networks.towers import FIRST_SCALE, LARGEST_SCALE, Agreement
from cfg_jax.parts import Attended, Sequence, Vector

FIELDS = {
    "channels": 8,
    "channel_mult": (1, 2),
    "blocks": 1,
    "attention_resolutions": (4,),
    "head_channels": 8,
}
TINY = Towers(**FIELDS, features=5, inlets=(("text", Sequence(4, 6, masked=True)),))
RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(3, 8, 8, 2)), jnp.float32)
LAM = jnp.array([-3.0, 0.0, 5.0])
VECTORS = jnp.asarray(RNG.normal(size=(3, 4, 6)), jnp.float32)
MASK = jnp.arange(4) < jnp.array([2, 4, 3])[:, None]
TEXT = {"text": Attended(VECTORS, MASK)}


@pytest.fixture(scope="module")
def variables():
    return random_variables(TINY, Z, LAM, TEXT)


@jax.jit
def embed(variables, z, lam, cond):
    return TINY.apply(variables, z, lam, cond)


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_the_images_tower_is_the_encoder_and_the_texts_a_projection_of_its_end(variables):
    found = embed(variables, Z, LAM, TEXT)
    of_encoder = {
        name: leaf
        for name, leaf in variables["params"].items()
        if name not in ("projection", "logit_scale")
    }
    encoder = Encoder(**FIELDS, num_classes=5)
    np.testing.assert_allclose(
        found.image, unit(encoder.apply({"params": of_encoder}, Z, LAM)), rtol=1e-4, atol=1e-5
    )
    ends = np.asarray(VECTORS)[[0, 1, 2], [1, 3, 2]]
    want = unit(ends @ np.asarray(variables["params"]["projection"]["kernel"]))
    np.testing.assert_allclose(found.text, want, rtol=1e-4, atol=1e-5)


def test_each_embedding_is_there_alone(variables):
    both = embed(variables, Z, LAM, TEXT)
    image, text = embed(variables, Z, LAM, None), embed(variables, None, None, TEXT)
    assert image.text is None
    assert text.image is None
    np.testing.assert_allclose(image.image, both.image, atol=1e-6)
    np.testing.assert_allclose(text.text, both.text, atol=1e-6)


def test_padding_and_other_examples_are_of_no_account(variables):
    base = embed(variables, Z, LAM, TEXT)
    hidden = VECTORS + jnp.where(MASK, 0.0, 7.0)[..., None]
    padded = embed(variables, Z, LAM, {"text": Attended(hidden, MASK)})
    np.testing.assert_array_equal(padded.text, base.text)
    changed = embed(variables, Z.at[1].add(0.1), LAM, TEXT)
    assert np.abs(changed.image[1] - base.image[1]).max() > 1e-4
    np.testing.assert_allclose(changed.image[::2], base.image[::2], atol=1e-5)


def test_a_sequence_without_a_mask_ends_with_its_last_vector_and_a_vector_is_one():
    without = TINY.clone(inlets=(("text", Sequence(4, 6)),))
    single = TINY.clone(inlets=(("text", Vector(6)),))
    params = random_variables(without, Z, LAM, {"text": VECTORS})
    last = without.apply(params, None, None, {"text": VECTORS}).text
    np.testing.assert_allclose(
        single.apply(params, None, None, {"text": VECTORS[:, -1]}).text, last, atol=1e-6
    )


@pytest.mark.parametrize(
    ("held", "want", "down", "up"),
    [(FIRST_SCALE, 1 / 0.07, 1 / 0.07, -1 / 0.07), (LARGEST_SCALE + 1.0, 100.0, 100.0, 0.0)],
)
def test_the_scale_begins_as_clips_and_ends_at_100_from_where_it_can_go_down(held, want, down, up):
    first = TINY.init(jax.random.key(0), Z, LAM, TEXT)["params"]["logit_scale"]
    assert first == pytest.approx(np.log(1 / 0.07))

    def scale(value):
        return TINY.apply({"params": {"logit_scale": value}}, None, None, None).scale

    value = jnp.float32(held)
    assert scale(value) == pytest.approx(want, rel=1e-5)
    assert jax.grad(scale)(value) == pytest.approx(down, rel=1e-5)
    assert jax.grad(lambda x: -scale(x))(value) == pytest.approx(up, rel=1e-5)


def test_the_agreement_is_the_cosine_times_the_scale_and_travels_as_a_pytree(variables):
    agreement = Agreement(network=TINY, params=variables, of="text", clean=20.0)
    found = embed(variables, Z, LAM, TEXT)
    want = np.asarray(found.scale) * np.sum(np.asarray(found.image) * found.text, axis=1)
    got = jax.jit(lambda agreement: agreement(Z, LAM, {**TEXT, "label": LAM}))(agreement)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    np.testing.assert_allclose(agreement.texts(TEXT), found.text, atol=1e-5)
    np.testing.assert_allclose(agreement.images(Z, LAM), found.image, atol=1e-5)
    clean = embed(variables, Z, 20.0, None).image
    np.testing.assert_allclose(jax.jit(lambda f: f(Z))(agreement.images), clean, atol=1e-5)
    assert agreement.scale == found.scale
    with pytest.raises(ValueError, match="the sentence is the entry 'text', which 'label' is not"):
        agreement(Z, LAM, {"label": LAM})


@pytest.mark.slow
def test_the_gradient_at_no_length_is_finite():
    net = Towers(**FIELDS, features=5, inlets=(("text", Vector(6)),))
    zeros = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), Z, LAM, {"text": LAM_TEXT}))

    def total(params):
        found = net.apply(params, Z, LAM, {"text": LAM_TEXT})
        return jnp.sum(found.image @ found.text.T)

    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(total)(zeros)))


LAM_TEXT = jnp.ones((3, 6))


def test_what_it_cannot_take_is_refused(variables):
    with pytest.raises(ValueError, match="the Towers needs the inlet of its sentences"):
        TINY.clone(inlets=None).init(jax.random.key(0), Z, LAM, TEXT)
    with pytest.raises(ValueError, match="the Towers needs 'text' in its condition"):
        TINY.apply(variables, None, None, {"label": LAM})
    with pytest.raises(ValueError, match="the Towers halves height and width 1 times"):
        TINY.init(jax.random.key(0), Z[:, :7], LAM, TEXT)
    assert TINY.takes == ("text",)
