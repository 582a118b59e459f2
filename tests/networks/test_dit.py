"""DiT against float64 NumPy and the published sizes, and what it depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    attended,
    dense,
    double,
    level_features,
    linear,
    random_variables,
    silu,
    two_dense,
)

from cfg_jax.networks import DiT
from cfg_jax.parts import Attended, Beside, Classes, Prediction, Sequence, Vector

RNG = np.random.default_rng(0)
SHAPES = {"sound": (8, 2), "picture": (4, 6, 2), "video": (3, 4, 2, 2)}
SMALL = {"sound": (4, 2), "picture": (2, 3, 2), "video": (3, 2, 1, 2)}
LAM = jnp.array([-3.0, 4.0])
LABEL = ("label", Classes(5))
TINY = DiT(width=16, depth=1, heads=2, mlp_ratio=2.0, inlets=(LABEL,))
Z, LABELS = jnp.asarray(RNG.normal(size=(2, 4, 4, 1)), jnp.float32), {"label": jnp.array([4, 1])}


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(module, variables, *args, **options):
    return module.apply(variables, *args, **options)


def single(x):
    return jnp.asarray(x, jnp.float32)


def normed(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def modulated(x, shift, scale):
    return normed(x) * (1 + scale[:, None]) + shift[:, None]


def tanh_gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(p, x, context, each, allowed=True):
    q, k, v = (
        dense(p["projections"][name], seen)
        for name, seen in (("query", x), ("key", context), ("value", context))
    )
    return dense(p["output"], attended(q, k, v, each, allowed))


def places(sides, width, period=10_000.0):
    """sin and cos of the place along the last side, then along the one before it, and so on."""
    pairs = width // (2 * len(sides))
    out = np.zeros((*sides, width))
    for place in np.ndindex(*sides):
        for i, side in enumerate(reversed(place)):
            angles = side / period ** (np.arange(pairs) / pairs)
            both = np.concatenate([np.sin(angles), np.cos(angles)])
            out[place][2 * pairs * i : 2 * pairs * (i + 1)] = both
    return out


def block(p, x, embedding, text, mask, each):
    parts = np.split(dense(p["modulation"]["dense"], embedding), 6, axis=-1)
    h = modulated(x, *parts[:2])
    x = x + parts[2][:, None] * attention(p["attention"], h, h, each)
    x = x + attention(p["text_cross"], normed(x), text, each, mask[:, None, None])
    h = dense(p["forward"]["hidden"], modulated(x, *parts[3:5]))
    return x + parts[5][:, None] * dense(p["forward"]["output"], tanh_gelu(h))


@pytest.mark.parametrize("data", SHAPES)
def test_a_dit_is_its_layers_in_float64(data):
    """Over patches cut one by one, in the order of their places; the text with a mask."""
    z, small = (RNG.normal(size=(2, *shapes[data])) for shapes in (SHAPES, SMALL))
    label, pose = np.array([4, 1]), np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    text, mask = RNG.normal(size=(2, 3, 6)), np.array([[1, 1, 0], [1, 0, 1]], bool)
    module = DiT(
        width=24,
        depth=2,
        heads=2,
        mlp_ratio=2.0,
        period=5.0,
        pooled=True,
        inlets=(
            LABEL,
            ("pose", Vector(3)),
            ("text", Sequence(3, 6)),
            ("small", Beside(SMALL[data])),
        ),
    )
    cond = {
        "label": jnp.asarray(label),
        "pose": single(pose),
        "text": Attended(single(text), jnp.asarray(mask)),
        "small": single(small),
    }
    variables = random_variables(module, single(z), LAM, cond)
    p = double(variables["params"])
    given = np.concatenate([pose, [[1.0], [0.0]]], axis=-1)
    embedding = two_dense(p, "level", level_features(LAM, 256)) + p["label"]["embedding"][label]
    embedding = embedding + two_dense(p, "pose", given)
    of_text = np.stack([text[0, [0, 1]].mean(0), text[1, [0, 2]].mean(0)])
    embedding = silu(embedding + two_dense(p, "text_pooled", of_text))

    factors = [a // b for a, b in zip(z.shape[1:-1], small.shape[1:-1], strict=True)]
    seen = np.concatenate([z, linear(small, factors)], axis=-1)
    space = seen.ndim - 2 - (data == "video")
    sides = seen.shape[1:-1]
    grid = tuple(n // 2 if i >= len(sides) - space else n for i, n in enumerate(sides))

    def window(place):
        frames = place[: len(place) - space]
        cut = [slice(2 * i, 2 * i + 2) for i in place[len(place) - space :]]
        return (slice(None), *frames, *cut)

    order = list(np.ndindex(*grid))
    h = np.stack([seen[window(place)].reshape(2, -1) for place in order], axis=1)
    h = dense(p["input"], h) + places(grid, 24, 5.0).reshape(1, -1, 24)
    for i in range(2):
        h = block(p[f"block{i}"], h, embedding, text, mask, 12)
    h = modulated(h, *np.split(dense(p["output_modulation"]["dense"], embedding), 2, axis=-1))
    h = dense(p["output"], h)
    want = np.zeros(z.shape)
    for i, place in enumerate(order):
        want[window(place)] = h[:, i].reshape(2, *(2,) * space, 2)
    got = apply(module, variables, single(z), LAM, cond)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(
    ("width", "depth", "heads", "parameters"),
    [(384, 12, 6, 32.87), (768, 12, 12, 130.32), (1024, 24, 16, 457.84), (1152, 28, 16, 674.83)],
)
def test_it_has_the_published_sizes(width, depth, heads, parameters):
    """S, B, L and XL, of latents of 32×32×4, in millions."""
    network = DiT(
        width=width,
        depth=depth,
        heads=heads,
        inlets=(("label", Classes(1001)),),
        learned_variance=True,
    )
    entries = sum(leaf.size for leaf in jax.tree.leaves(network.shapes((32, 32, 4))))
    assert round(entries / 1e6, 2) == parameters


@pytest.fixture(scope="module")
def variables():
    return random_variables(TINY, Z, LAM, LABELS)


def test_it_starts_at_zero_and_its_blocks_as_identities():
    module = TINY.clone(inlets=(LABEL, ("text", Sequence(3, 6))))
    cond = LABELS | {"text": jnp.ones((2, 3, 6))}
    start = jax.jit(module.init)(jax.random.key(0), Z, LAM, cond)
    got, seen = module.apply(start, Z, LAM, cond, capture_intermediates=True)
    np.testing.assert_array_equal(got, 0.0)
    seen = seen["intermediates"]
    tokens = seen["input"]["__call__"][0].reshape(2, 4, 16) + places((2, 2), 16).reshape(4, 16)
    np.testing.assert_allclose(seen["block0"]["__call__"][0], tokens, atol=1e-5)


def test_it_depends_on_image_level_and_label_of_each_example_alone(variables):
    base = apply(TINY, variables, Z, LAM, LABELS)
    for changed in (
        apply(TINY, variables, Z.at[1].add(0.1), LAM, LABELS),
        apply(TINY, variables, Z, LAM.at[1].add(0.1), LABELS),
        apply(TINY, variables, Z, LAM, {"label": jnp.array([4, 2])}),
    ):
        assert np.abs(changed[1] - base[1]).max() > 1e-4
        np.testing.assert_allclose(changed[0], base[0], atol=1e-5)


def test_places_are_told_apart_along_every_side():
    """A clip reversed in time is another one, and a picture mirrored."""
    module = DiT(width=24, depth=1, heads=2)
    z = single(RNG.normal(size=(1, 3, 4, 4, 1)))
    variables = random_variables(module, z, 0.0)
    base = apply(module, variables, z, 0.0)
    for axis in (1, 2, 3):
        mirrored = jnp.flip(apply(module, variables, jnp.flip(z, axis), 0.0), axis)
        assert np.abs(mirrored - base).max() > 1e-3


def test_hidden_vectors_are_as_if_they_were_not_there():
    """And where none counts, the sequence adds what attention adds to nothing: its last bias."""
    text, short = single(RNG.normal(size=(2, 4, 6))), jnp.array([[1, 1, 0, 0]] * 2, bool)
    module = TINY.clone(inlets=(("text", Sequence(4, 6)),))
    variables = random_variables(module, Z, LAM, {"text": text})
    masked = apply(module, variables, Z, LAM, {"text": Attended(text, short)})
    cut = apply(
        TINY.clone(inlets=(("text", Sequence(2, 6)),)), variables, Z, LAM, {"text": text[:, :2]}
    )
    np.testing.assert_allclose(masked, cut, atol=1e-5)
    none = [
        apply(module, variables, Z, LAM, {"text": Attended(text + i, jnp.zeros((2, 4), bool))})
        for i in (0, 1)
    ]
    np.testing.assert_array_equal(*none)
    assert np.all(np.isfinite(none[0]))


def test_a_mask_of_another_shape_is_refused():
    text = jnp.ones((2, 4, 6))
    module = TINY.clone(inlets=(("text", Sequence(4, 6)),))
    with pytest.raises(ValueError, match=r"'text' must have a mask of \(2, 4\), got \(2, 3\)"):
        jax.eval_shape(
            module.init, jax.random.key(0), Z, LAM, {"text": Attended(text, jnp.ones((2, 3), bool))}
        )


def test_bfloat16_computes_nearly_the_same_from_float32_parameters(variables):
    half = TINY.clone(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.shapes((4, 4, 1)))} == {
        jnp.dtype("float32")
    }
    got, want = (apply(module, variables, Z, LAM, LABELS) for module in (half, TINY))
    assert got.dtype == jnp.float32
    assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


@pytest.mark.parametrize("remat", ["products", "blocks"])
def test_remat_changes_what_is_kept_and_nothing_else(variables, remat):
    def loss(v, network):
        return jnp.square(network.apply(v, Z, LAM, LABELS)).sum()

    again = TINY.clone(remat=remat)
    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3),
        gradient(variables, TINY),
        gradient(variables, again),
    )
    kept, recomputed = (
        str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(variables, network))
        for network in (TINY, again)
    )
    assert recomputed.count("remat") > kept.count("remat") == 0


def test_dropout_is_on_in_training_alone(variables):
    module = TINY.clone(dropout=0.5)
    still = apply(module, variables, Z, LAM, LABELS)
    np.testing.assert_array_equal(still, apply(TINY, variables, Z, LAM, LABELS))
    one, two = (
        apply(module, variables, Z, LAM, LABELS, train=True, rngs={"dropout": jax.random.key(i)})
        for i in (0, 1)
    )
    assert np.abs(one - two).max() > 1e-3


def test_a_learned_variance_is_the_second_half_of_each_entrys_outputs(variables):
    module = TINY.clone(learned_variance=True)
    both = random_variables(module, Z, LAM, LABELS)
    got = apply(module, both, Z, LAM, LABELS)
    assert isinstance(got, Prediction)
    for part, value in ((0, got.value), (1, 2 * got.v - 1)):
        last = jax.tree.map(lambda leaf, part=part: leaf[..., part::2], both["params"]["output"])
        one = {"params": both["params"] | {"output": last}}
        np.testing.assert_allclose(apply(TINY, one, Z, LAM, LABELS), value, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 7, 1), "the DiT cuts height and width into patches of 2: it needs multiples of 2"),
        ((7, 1), "cuts the length into patches of 2: .* got 7"),
        ((0, 4, 1), "needs multiples of 2; got 0×4"),
        ((8,), r"takes \(length, channels\), .* got \(8,\)"),
    ],
)
def test_shapes_that_it_cannot_take_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        TINY.check(shape)
    TINY.check((3, 4, 6, 1))
