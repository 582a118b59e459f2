"""CLIP's text encoder: one of NumPy, what attends to what, pooling, dtypes, and training."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from networks import attended, dense, double, random_variables
from scipy import special

from cfg_jax.text import CLIPText, Encoded, joined

EOS, LENGTH = 17, 7
TINY = CLIPText(
    vocabulary=20, width=8, layers=2, heads=2, length=LENGTH, hidden=12, eos=EOS, projection=5
)
IDS = jnp.array([[16, 3, 4, EOS, 0, 0, 0], [16, EOS, EOS, EOS, 2, 1, 0], [16, 1, 2, 3, 4, 5, EOS]])
MASK = jnp.array([[1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0], [1] * 7], bool)


@pytest.fixture(scope="module")
def variables():
    return random_variables(TINY, IDS)


def normed(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


ACTIVATIONS = {
    "quick_gelu": lambda x: x * special.expit(1.702 * x),
    "gelu": lambda x: x * special.ndtr(x),
}


def oracle(variables, activation, allowed):
    """All states, in float64."""
    p = double(variables["params"])
    states = [p["tokens"]["embedding"][np.asarray(IDS)] + p["positions"][:LENGTH]]
    for i in range(2):
        x, block = states[-1], p[f"blocks_{i}"]
        h = normed(block["norm_1"], x)
        x = x + dense(block["out"], attended(*(dense(block[n], h) for n in "qkv"), 4, allowed))
        h = ACTIVATIONS[activation](dense(block["up"], normed(block["norm_2"], x)))
        states.append(x + dense(block["down"], h))
    return states, normed(p["norm"], states[-1])


CAUSAL = np.tril(np.ones((LENGTH, LENGTH), bool))[None, None]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_the_transformer_of_the_paper(activation, masked, causal, variables):
    network = TINY.clone(activation=activation, masked=masked, causal=causal)
    got = network.apply(variables, IDS, MASK)
    allowed = CAUSAL if causal else np.ones_like(CAUSAL)
    allowed = allowed & np.asarray(MASK)[:, None, None] if masked else allowed
    states, last = oracle(variables, activation, allowed)
    for ours, theirs in zip(got.states, states, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(got.last, last, atol=1e-5)
    kernel = double(variables["params"]["project"]["kernel"])
    pooled = last[np.arange(3), [3, 1, 6]] @ kernel
    np.testing.assert_allclose(got.pooled, pooled, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_no_token_depends_on_a_later_one(masked, variables):
    network = TINY.clone(masked=masked)
    base = network.apply(variables, IDS, MASK)
    changed = network.apply(variables, IDS.at[:, 4].set(9), MASK)
    np.testing.assert_array_equal(changed.last[:, :4], base.last[:, :4])
    assert (np.abs(changed.last - base.last)[:, 4].max(-1) > 1e-3).all()


def test_padding_is_attended_unless_the_encoder_is_masked(variables):
    """Only the states of padding itself can tell: the text never looks ahead."""
    plain = TINY.apply(variables, IDS, MASK)
    np.testing.assert_array_equal(plain.last, TINY.apply(variables, IDS).last)
    masked = TINY.clone(masked=True).apply(variables, IDS, MASK)
    same = np.abs(plain.last - masked.last).max(-1) < 1e-6
    np.testing.assert_array_equal(same[0], [True] * 4 + [False] * 3)
    np.testing.assert_array_equal(masked.pooled, plain.pooled)
    other = TINY.clone(masked=True).apply(variables, IDS.at[0, 5].set(9), MASK)
    np.testing.assert_array_equal(other.last[0, 6], masked.last[0, 6])
    with pytest.raises(ValueError, match="needs a mask beside the ids"):
        TINY.clone(masked=True).apply(variables, IDS)
    nothing = TINY.clone(masked=True).apply(variables, IDS, jnp.zeros_like(MASK))
    assert np.isfinite(nothing.last).all()


def test_longer_rows_change_nothing_of_shorter_ones(variables):
    long, short = TINY.apply(variables, IDS), TINY.apply(variables, IDS[:, :5])
    np.testing.assert_allclose(long.last[:, :5], short.last, atol=1e-6)
    with pytest.raises(ValueError, match="ids must be at most 7 a row, got 8"):
        TINY.apply(variables, jnp.ones((1, 8), int))


def test_the_end_is_pooled(variables):
    """The first end of a row; the largest id is another place once there are tokens behind it."""
    network = TINY.clone(projection=None)
    added = IDS.at[0, 1].set(EOS + 1)
    params = {"params": {k: v for k, v in variables["params"].items() if k != "project"}}
    first = network.apply(params, added)
    largest = network.clone(pool="argmax").apply(params, added)
    np.testing.assert_array_equal(first.pooled, first.last[jnp.arange(3), jnp.array([3, 1, 6])])
    np.testing.assert_array_equal(largest.pooled, first.last[jnp.arange(3), jnp.array([1, 1, 6])])
    without = network.apply(params, IDS.at[2, 6].set(5))
    np.testing.assert_array_equal(without.pooled[2], without.last[2, 0])


@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_a_network_attends_to_the_state_that_is_chosen(layer, final_norm, variables):
    network = TINY.clone(layer=layer, final_norm=final_norm)
    got = network.apply(variables, IDS)
    want = np.asarray(got.states[layer], np.float64)
    if final_norm:
        want = normed(double(variables["params"]["norm"]), want)
    np.testing.assert_allclose(got.sequence, want, atol=1e-5)
    base = TINY.apply(variables, IDS)
    np.testing.assert_array_equal(got.last, base.last)
    np.testing.assert_array_equal(got.pooled, base.pooled)


def test_embeddings_may_be_given(variables):
    embedded = TINY.apply(variables, IDS, method="embed")
    base = TINY.apply(variables, IDS)
    given = TINY.apply(variables, IDS, None, embedded)
    np.testing.assert_array_equal(given.last, base.last)
    np.testing.assert_array_equal(given.pooled, base.pooled)

    def norm(embedded):
        return (TINY.apply(variables, IDS, None, embedded).pooled ** 2).sum()

    gradient = jax.grad(norm)(embedded)
    reach = np.abs(gradient).max(-1) > 0
    np.testing.assert_array_equal(reach, np.arange(7) <= np.array([[3], [1], [6]]))


def test_examples_do_not_depend_on_each_other_and_jit_changes_nothing(variables):
    base = TINY.apply(variables, IDS)
    alone = jax.jit(TINY.apply)(variables, IDS[1:2])
    np.testing.assert_allclose(alone.last[0], base.last[1], atol=1e-5)
    mapped = jax.vmap(lambda row: TINY.apply(variables, row[None]).pooled[0])(IDS)
    np.testing.assert_allclose(mapped, base.pooled, atol=1e-5)


def test_bfloat16_gives_float32_close_to_float32(variables):
    got, want = TINY.clone(dtype="bfloat16").apply(variables, IDS), TINY.apply(variables, IDS)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert ours.dtype == jnp.float32
        assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()
    assert np.abs(got.last - want.last).max() > 0


def test_remat_changes_neither_parameters_nor_gradients(variables):
    def gradient(network):
        def loss(variables):
            return (network.apply(variables, IDS).pooled ** 2).sum()

        return jax.jit(jax.grad(loss))(variables)

    kept, again = gradient(TINY), gradient(TINY.clone(remat=True))
    assert jax.tree.structure(kept) == jax.tree.structure(again)
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_it_starts_as_the_paper_says():
    network = CLIPText(vocabulary=50, width=64, layers=3, heads=4, length=20, eos=49, projection=32)
    p = network.init(jax.random.key(0), jnp.ones((1, 5), int))["params"]
    spreads = {
        ("tokens", "embedding"): 0.02,
        ("project", "kernel"): 64**-0.5,
        ("blocks_0", "q", "kernel"): 64**-0.5,
        ("blocks_1", "out", "kernel"): 64**-0.5 * 6**-0.5,
        ("blocks_2", "up", "kernel"): 128**-0.5,
        ("blocks_2", "down", "kernel"): 64**-0.5 * 6**-0.5,
    }
    for path, spread in spreads.items():
        leaf = p
        for name in path:
            leaf = leaf[name]
        assert abs(leaf.std() / spread - 1) < 0.1, path
    assert abs(p["positions"].std() / 0.01 - 1) < 0.1
    assert p["blocks_0"]["up"]["kernel"].shape == (64, 256)


def test_it_learns():
    """Pooled vectors of 8 random texts learn to be 8 given ones, every parameter moving."""
    import optax

    network = CLIPText(vocabulary=20, width=16, layers=2, heads=2, length=6, eos=19, projection=4)
    rng = np.random.default_rng(0)
    ids = jnp.asarray(np.c_[rng.integers(0, 19, (8, 5)), np.full(8, 19)])
    target = jnp.asarray(rng.normal(size=(8, 4)), jnp.float32)
    start = params = network.init(jax.random.key(0), ids)
    optimiser = optax.adam(1e-2)
    state = optimiser.init(params)

    @jax.jit
    def step(params, state):
        def loss(params):
            return ((network.apply(params, ids).pooled - target) ** 2).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(60):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.05 * losses[0]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), start, params)
    assert all(jax.tree.leaves(moved))


def test_a_long_text_pools_as_its_first_row(variables):
    """Rows of two texts, two each: one behind the other, the pooled vector of the first."""
    ids = jnp.concatenate([IDS, IDS[:1]])
    apart = TINY.apply(variables, ids)
    together = joined(apart, 2)
    assert together.last.shape == (2, 14, 8)
    np.testing.assert_array_equal(together.sequence[1, 7:], apart.sequence[3])
    np.testing.assert_array_equal(together.pooled, apart.pooled[::2])
    np.testing.assert_array_equal(together.states[1][0, :7], apart.states[1][0])
    assert joined(Encoded((), apart.last, apart.last, None), 1).pooled is None
    with pytest.raises(ValueError, match="rows must divide the batch: 4 is no multiple of 3"):
        joined(apart, 3)


WRONG = {
    "vocabulary": (0, -1, 2.0, None, 10**9),
    "width": (0, "8", 10**9),
    "layers": (0, 1000, 1.5),
    "heads": (0, 3, None),
    "length": (0, -1, 77.0),
    "hidden": (0, -4, "x"),
    "activation": ("relu", None, ""),
    "projection": (0, -1, 2.5),
    "pool": ("mean", None),
    "eos": (-1, 20, None),
    "masked": (0, None, "yes"),
    "causal": (1, None, "no"),
    "layer": (0, 1, -4, 2.0, None),
    "final_norm": (1, None),
    "dtype": ("int32", "float64", None),
    "remat": ("blocks", None, 1),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_field_out_of_its_range_is_refused_by_name(field, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for value in WRONG[field]:
        with pytest.raises(ValueError, match=field):
            TINY.clone(**{field: value})


def test_every_field_has_wrong_values_here():
    assert set(CLIPText.__dataclass_fields__) - {"parent", "name"} == set(WRONG)
