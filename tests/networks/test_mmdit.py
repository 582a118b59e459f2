"""MMDiT: the published sizes, and what it depends on; its numbers are compared with diffusers'."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_variables

from cfg_jax.networks import MMDiT
from cfg_jax.nn import sincos_positions
from cfg_jax.parts import Attended, Classes, Prediction, Sequence, Vector

RNG = np.random.default_rng(0)
LAM = jnp.array([-3.0, 4.0])
TINY = MMDiT(
    width=16, depth=2, heads=2, mlp_ratio=2.0, inlets=(("text", Sequence(4, 6)),), qk_norm=True
)
Z = jnp.asarray(RNG.normal(size=(2, 4, 6, 1)), jnp.float32)
TEXT = jnp.asarray(RNG.normal(size=(2, 4, 6)), jnp.float32)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(module, variables, *args, **options):
    return module.apply(variables, *args, **options)


@pytest.fixture(scope="module")
def variables():
    return random_variables(TINY, Z, LAM, {"text": TEXT})


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({"width": 1536, "depth": 24, "heads": 24}, 2_028_328_000),
        (
            {"width": 1536, "depth": 24, "heads": 24, "qk_norm": True, "dual_blocks": 13},
            2_243_171_520,
        ),
        ({"width": 2432, "depth": 38, "heads": 38, "qk_norm": True}, 8_056_627_520),
    ],
)
@pytest.mark.slow
def test_it_has_the_published_sizes(fields, parameters):
    """Stable Diffusion 3 medium, 3.5 medium and 3.5 large, without positions."""
    inlets = (("text", Sequence(333, 4096)), ("pooled", Vector(2048)))
    shapes = MMDiT(**fields, inlets=inlets).shapes((128, 128, 16))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


def test_it_starts_at_zero():
    start = jax.jit(TINY.init)(jax.random.key(0), Z, LAM, {"text": TEXT})
    np.testing.assert_array_equal(apply(TINY, start, Z, LAM, {"text": TEXT}), 0.0)


def test_it_depends_on_image_level_and_text_of_each_example_alone(variables):
    base = apply(TINY, variables, Z, LAM, {"text": TEXT})
    for changed in (
        apply(TINY, variables, Z.at[1].add(0.1), LAM, {"text": TEXT}),
        apply(TINY, variables, Z, LAM.at[1].add(0.1), {"text": TEXT}),
        apply(TINY, variables, Z, LAM, {"text": TEXT.at[1, 3].add(0.5)}),
    ):
        assert np.abs(changed[1] - base[1]).max() > 1e-4
        np.testing.assert_allclose(changed[0], base[0], atol=1e-5)


def test_hidden_vectors_are_as_if_they_were_not_there(variables):
    """Without a mask all are attended to, as a mask of all would have it."""
    short = jnp.array([[1, 1, 0, 0]] * 2, bool)
    masked = apply(TINY, variables, Z, LAM, {"text": Attended(TEXT, short)})
    network = TINY.clone(inlets=(("text", Sequence(2, 6)),))
    cut = apply(network, variables, Z, LAM, {"text": TEXT[:, :2]})
    np.testing.assert_allclose(masked, cut, atol=1e-5)
    whole = apply(TINY, variables, Z, LAM, {"text": Attended(TEXT, jnp.ones((2, 4), bool))})
    bare = apply(TINY, variables, Z, LAM, {"text": TEXT})
    np.testing.assert_allclose(whole, bare, atol=1e-5)
    assert np.abs(bare - masked).max() > 1e-3


def test_sequences_follow_each_other_each_with_its_own_mask():
    """Two with the same dense layer are one; its order does not matter, as it has no positions."""
    pair = TINY.clone(inlets=(("first", Sequence(2, 6)), ("second", Sequence(2, 6))))
    variables = random_variables(TINY, Z, LAM, {"text": TEXT})
    params = dict(variables["params"])
    dense = params.pop("text_embedding")
    both = {"params": params | {"first_embedding": dense, "second_embedding": dense}}
    mask = jnp.array([[True, False]] * 2)
    got = apply(pair, both, Z, LAM, {"first": TEXT[:, 2:], "second": Attended(TEXT[:, :2], mask)})
    whole = Attended(TEXT, jnp.array([[True, False, True, True]] * 2))
    want = apply(TINY, variables, Z, LAM, {"text": whole})
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("period", [10_000.0, 5.0])
@pytest.mark.slow
def test_positions_begin_as_sines_and_smaller_data_get_those_of_the_middle(period):
    module = TINY.clone(grid=7, period=period)
    start = jax.jit(module.init)(jax.random.key(0), Z, LAM, {"text": TEXT})
    positions = start["params"]["positions"]
    np.testing.assert_allclose(positions, sincos_positions((7, 7), 16, period), atol=1e-6)
    variables = random_variables(module, Z, LAM, {"text": TEXT})
    gradient = jax.jit(
        jax.grad(lambda v: jnp.square(module.apply(v, Z, LAM, {"text": TEXT})).sum())
    )(variables)
    moved = np.abs(gradient["params"]["positions"]).max(-1) > 0
    want = np.zeros((7, 7), bool)
    want[2:4, 2:5] = True  # of 2×3 patches
    np.testing.assert_array_equal(moved, want)


def test_frames_have_fixed_positions_beside_the_grids():
    """A clip reversed in time is another one."""
    z = jnp.asarray(RNG.normal(size=(1, 3, 4, 2, 1)), jnp.float32)
    cond = {"text": TEXT[:1]}
    module = TINY.clone(grid=2)
    variables = random_variables(module, z, 0.0, cond)
    assert variables["params"]["positions"].shape == (2, 2, 16)
    base = apply(module, variables, z, 0.0, cond)
    mirrored = jnp.flip(apply(module, variables, jnp.flip(z, 1), 0.0, cond), 1)
    assert np.abs(mirrored - base).max() > 1e-3


def test_sounds_and_a_learned_variance():
    z = jnp.asarray(RNG.normal(size=(2, 8, 1)), jnp.float32)
    module = TINY.clone(grid=5, learned_variance=True, dual_blocks=1)
    variables = random_variables(module, z, LAM, {"text": TEXT})
    assert variables["params"]["positions"].shape == (5, 16)
    got = apply(module, variables, z, LAM, {"text": TEXT})
    assert isinstance(got, Prediction)
    assert got.value.shape == got.v.shape == z.shape


def test_bfloat16_computes_nearly_the_same_from_float32_parameters(variables):
    half = TINY.clone(dtype="bfloat16")
    got, want = (apply(m, variables, Z, LAM, {"text": TEXT}) for m in (half, TINY))
    assert got.dtype == jnp.float32
    assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


def test_remat_changes_what_is_kept_and_nothing_else(variables):
    def loss(v, network):
        return jnp.square(network.apply(v, Z, LAM, {"text": TEXT})).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3),
        gradient(variables, TINY),
        gradient(variables, TINY.clone(remat="blocks")),
    )


def test_dropout_is_on_in_training_alone(variables):
    module = TINY.clone(dropout=0.5)
    still = apply(module, variables, Z, LAM, {"text": TEXT})
    np.testing.assert_array_equal(still, apply(TINY, variables, Z, LAM, {"text": TEXT}))
    one, two = (
        apply(
            module,
            variables,
            Z,
            LAM,
            {"text": TEXT},
            train=True,
            rngs={"dropout": jax.random.key(i)},
        )
        for i in (0, 1)
    )
    assert np.abs(one - two).max() > 1e-3


def test_what_it_cannot_take_is_refused():
    with pytest.raises(ValueError, match="the MMDiT needs a sequence in its condition"):
        TINY.clone(inlets=(("label", Classes(3)),)).check((4, 4, 1))
    with pytest.raises(
        ValueError, match="positions of 3 patches a side: sides are at most 6; got 8×4"
    ):
        TINY.clone(grid=3).check((8, 4, 1))
    with pytest.raises(ValueError, match="cuts height and width into patches of 2"):
        TINY.check((4, 7, 1))
    with pytest.raises(ValueError, match="dual_blocks must be at most depth, 2; got 3"):
        TINY.clone(dual_blocks=3)
    with pytest.raises(ValueError, match="heads must divide width, 16; got 3"):
        TINY.clone(heads=3)
