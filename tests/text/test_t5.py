"""T5's encoder: one of NumPy, distances, masks, dtypes, and how it starts."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from networks import double, random_variables
from scipy import special

from cfg_jax.text import T5Encoder
from cfg_jax.text.t5 import bucket

TINY = T5Encoder(
    vocabulary=20, width=8, layers=2, heads=3, head_channels=4, hidden=10, buckets=8, distance=6
)
RNG = np.random.default_rng(0)
IDS = jnp.asarray(RNG.integers(2, 20, (3, 9)))
MASK = jnp.arange(9) < jnp.array([[9], [5], [1]])


@pytest.fixture(scope="module")
def variables():
    return random_variables(TINY, IDS, MASK)


def normed(p, x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]


def place_bucket(distance):
    """Of 8 buckets, 4 a direction: 0, 1, then from 2 by the logarithm up to 6."""
    d = abs(distance)
    shared = 2 + int(np.floor(np.log(max(d, 2) / 2) / np.log(6 / 2) * 2))
    return min(d if d < 2 else shared, 3) + (4 if distance > 0 else 0)


def oracle(variables, feed_forward, mask):
    """All states and the last one normalised, in float64."""
    p = double(variables["params"])
    places = [[place_bucket(j - i) for j in range(9)] for i in range(9)]
    bias = p["distances"]["embedding"][places].transpose(2, 0, 1)
    states = [p["tokens"]["embedding"][np.asarray(IDS)]]
    for i in range(2):
        x, block = states[-1], p[f"blocks_{i}"]
        kernels = {name: block[name].get("kernel") for name in block}
        h = normed(block["norm_1"], x)
        q, k, v = ((h @ kernels[name]).reshape(3, 9, 3, 4) for name in "qkv")
        logits = np.einsum("bqhc,bkhc->bhqk", q, k) + bias
        weights = special.softmax(np.where(mask[:, None, None], logits, -np.inf), axis=-1)
        h = np.einsum("bhqk,bkhc->bqhc", weights, v).reshape(3, 9, 12)
        x = x + h @ kernels["out"]
        h = normed(block["norm_2"], x)
        up = h @ kernels["up"]
        if feed_forward == "relu":
            h = np.maximum(up, 0)
        else:
            g = h @ kernels["gate"]
            tanh = np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3))
            h = 0.5 * g * (1 + tanh) * up
        states.append(x + h @ kernels["down"])
    return states, normed(p["norm"], states[-1])


@pytest.mark.parametrize("feed_forward", ["gated_gelu", "relu"])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_transformer_of_the_paper(feed_forward, masked):
    network = TINY.clone(feed_forward=feed_forward, masked=masked)
    variables = random_variables(network, IDS, MASK)
    got = network.apply(variables, IDS, MASK)
    mask = np.asarray(MASK) if masked else np.ones((3, 9), bool)
    states, last = oracle(variables, feed_forward, mask)
    for ours, theirs in zip(got.states, states, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    np.testing.assert_allclose(got.last, last, atol=1e-5)
    np.testing.assert_array_equal(got.sequence, got.last)
    assert got.pooled is None


def test_padding_and_its_id_change_nothing_of_the_text(variables):
    """Rows padded to 5, 9 and 16; another id of padding; none of the text at all."""
    base = TINY.apply(variables, IDS, MASK)
    short = TINY.apply(variables, IDS[:, :5], MASK[:, :5])
    long = TINY.apply(
        variables,
        jnp.pad(IDS, ((0, 0), (0, 7)), constant_values=1),
        jnp.pad(MASK, ((0, 0), (0, 7))),
    )
    other = TINY.apply(variables, jnp.where(MASK, IDS, 0), MASK)
    for row, length in ((1, 5), (2, 1)):
        for found in (short, long, other):
            np.testing.assert_allclose(found.last[row, :length], base.last[row, :length], atol=2e-5)
    np.testing.assert_allclose(long.last[0, :9], base.last[0], atol=2e-5)
    plain = TINY.clone(masked=False).apply(variables, IDS)
    np.testing.assert_allclose(plain.last[0], base.last[0], atol=2e-5)
    assert np.abs(plain.last - base.last)[1, :5].max() > 1e-2
    with pytest.raises(ValueError, match="needs a mask beside the ids"):
        TINY.apply(variables, IDS)
    assert np.isfinite(TINY.apply(variables, IDS, jnp.zeros_like(MASK)).last).all()


def test_it_knows_distances_and_not_places(variables):
    """Shifted along a row, behind what is hidden, a text has the same states."""
    ids = jnp.concatenate([IDS[:1, :4], IDS[:1, :4]], axis=1)
    first, second = jnp.arange(8) < 4, jnp.arange(8) >= 4
    a = TINY.apply(variables, ids, first[None]).last[0, :4]
    b = TINY.apply(variables, ids, second[None]).last[0, 4:]
    np.testing.assert_allclose(a, b, atol=1e-5)
    turned = TINY.apply(variables, ids[:, ::-1], second[None]).last[0, :3:-1]
    assert np.abs(turned - a).max() > 1e-2


def test_buckets_are_those_of_the_paper():
    """One for each distance below 8, then 8 to 128 by their logarithm; both directions."""
    got = bucket(np.arange(-300, 301), 32, 128)
    forwards, backwards = got[301:], got[299::-1]
    np.testing.assert_array_equal(forwards, backwards + 16)
    assert got[300] == 0
    np.testing.assert_array_equal(backwards[:7], np.arange(1, 8))
    first = [int(np.argmax(backwards == i)) + 1 for i in range(8, 16)]
    edges = np.ceil(8 * 16 ** (np.arange(8) / 8) - 1e-9)
    np.testing.assert_array_equal(first, edges)
    assert (np.diff(backwards) >= 0).all()
    assert backwards.max() == 15


def test_embeddings_may_be_given(variables):
    embedded = TINY.apply(variables, IDS, method="embed")
    given = TINY.apply(variables, IDS, MASK, embedded)
    np.testing.assert_array_equal(given.last, TINY.apply(variables, IDS, MASK).last)
    twice = TINY.apply(variables, IDS, MASK, 2 * embedded)
    assert np.abs(twice.last - given.last).max() > 1e-3


def test_examples_do_not_depend_on_each_other_and_jit_changes_nothing(variables):
    base = TINY.apply(variables, IDS, MASK)
    alone = jax.jit(TINY.apply)(variables, IDS[1:2], MASK[1:2])
    np.testing.assert_allclose(alone.last[0], base.last[1], atol=2e-5)


def test_bfloat16_gives_float32_close_to_float32(variables):
    got = TINY.clone(dtype="bfloat16").apply(variables, IDS, MASK)
    want = TINY.apply(variables, IDS, MASK)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert ours.dtype == jnp.float32
        assert np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max()
    assert np.abs(got.last - want.last).max() > 0


def test_remat_changes_neither_parameters_nor_gradients(variables):
    def gradient(network):
        def loss(variables):
            return (network.apply(variables, IDS, MASK).last ** 3).sum()

        return jax.jit(jax.grad(loss))(variables)

    kept, again = gradient(TINY), gradient(TINY.clone(remat=True))
    assert jax.tree.structure(kept) == jax.tree.structure(again)
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
        assert np.abs(a).max() > 0
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())


def test_it_starts_as_t5_does():
    network = T5Encoder(
        vocabulary=90, width=64, layers=2, heads=4, head_channels=32, hidden=160, buckets=64
    )
    p = network.init(jax.random.key(0), jnp.ones((1, 3), int), jnp.ones((1, 3), bool))["params"]
    spreads = {"q": (64 * 32) ** -0.5, "k": 0.125, "v": 0.125, "out": 128**-0.5}
    spreads |= {"up": 0.125, "gate": 0.125, "down": 160**-0.5}
    for name, spread in spreads.items():
        assert abs(p["blocks_1"][name]["kernel"].std() / spread - 1) < 0.05
    assert abs(p["tokens"]["embedding"].std() - 1) < 0.05
    assert abs(p["distances"]["embedding"].std() / 0.125 - 1) < 0.15


WRONG = {
    "vocabulary": (0, None, 10**9),
    "width": (0, 8.0),
    "layers": (0, 1000),
    "heads": (0, -1),
    "head_channels": (0, "4"),
    "hidden": (0, None),
    "feed_forward": ("gelu", None, "gated-gelu"),
    "buckets": (0, 2, 10, 8.0),
    "distance": (0, 2, 6.5),
    "masked": (1, None),
    "dtype": ("int8", None),
    "remat": ("none", None),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_field_out_of_its_range_is_refused_by_name(field, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for value in WRONG[field]:
        with pytest.raises(ValueError, match=field):
            TINY.clone(**{field: value})


def test_every_field_has_wrong_values_here():
    assert set(T5Encoder.__dataclass_fields__) - {"parent", "name"} == set(WRONG)
