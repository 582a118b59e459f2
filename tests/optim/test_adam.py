"""Adam with warm-up, decay and clipping, in NumPy; any other optimiser by its path."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cfg_jax import recipe
from cfg_jax.optim import OPTIMISERS, adam

RNG = np.random.default_rng(0)


def test_the_learning_rate_warms_up_and_decays():
    optimiser = adam(0.1, warmup=10, decay="cosine", clip_norm=1e9, train_steps=110)
    params, moves = jnp.zeros(()), []
    state = optimiser.init(params)
    for _ in range(110):
        # Adam moves by the learning rate when every gradient is the same.
        updates, state = optimiser.update(jnp.ones(()), state, params)
        moves.append(-float(updates))
    step = np.arange(110)
    after = 0.05 * (1 + np.cos(np.pi * (step - 10) / 100))
    want = np.where(step < 10, 0.01 * step, after)
    np.testing.assert_allclose(moves, want, atol=1e-4)


def test_gradients_are_clipped_by_their_global_norm():
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    for clip, share in ((0.5, 0.1), (10.0, 1.0), (None, 1.0)):
        optimiser = adam(clip_norm=clip)
        _, state = optimiser.update(gradient, optimiser.init(gradient), gradient)
        np.testing.assert_allclose(optax.tree.get(state, "mu")["a"], 0.3 * share, rtol=1e-5)


def test_it_is_adam():
    """Two steps with two gradients, by Algorithm 1 of the paper in float64."""
    theta, *gradients = RNG.normal(size=(3, 5))
    optimiser = adam(0.1, b1=0.8, b2=0.9, eps=1e-3, clip_norm=None)
    got = jnp.asarray(theta, jnp.float32)
    state, mean, square = optimiser.init(got), 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        updates, state = optimiser.update(jnp.asarray(gradient, jnp.float32), state, got)
        got = optax.apply_updates(got, updates)
        mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
        theta = theta - 0.1 * (mean / (1 - 0.8**t)) / (np.sqrt(square / (1 - 0.9**t)) + 1e-3)
    np.testing.assert_allclose(got, theta, rtol=1e-5)


def test_weight_decay_is_adamws():
    """θ - lr (Adam's direction + decay θ), in NumPy; without it the state is Adam's."""
    theta, gradient = RNG.normal(size=(2, 5)).astype(np.float32)
    optimiser = adam(1e-2, weight_decay=0.1, clip_norm=1e9)
    state = optimiser.init(theta)
    for _ in range(2):  # the same gradient twice: both moments, corrected, stay g and g²
        updates, state = optimiser.update(gradient, state, theta)
        want = -1e-2 * (np.sign(gradient) + 0.1 * theta)
        np.testing.assert_allclose(updates, want, rtol=1e-4)
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.constant_schedule(1e-3)))
    assert jax.tree.structure(adam().init(theta)) == jax.tree.structure(plain.init(theta))


def test_the_recipes_number_of_steps_is_where_the_decay_ends():
    config = recipe.default()
    config.optimiser.decay, config.optimiser.learning_rate = "cosine", 0.1
    optimiser = recipe.make(config.optimiser, "optimiser", train_steps=3)
    state, moves = optimiser.init(jnp.zeros(())), []
    for _ in range(4):
        updates, state = optimiser.update(jnp.ones(()), state, jnp.zeros(()))
        moves.append(-float(updates))
    np.testing.assert_allclose(moves, [0.1, 0.075, 0.025, 0.0], atol=1e-5)


@pytest.mark.parametrize("path", ["optax:sgd", "optax:lion", "optax:adafactor", "optax:lamb"])
def test_any_optax_transformation_is_an_optimiser_by_its_path(path):
    node = recipe.node(path, learning_rate=0.1)
    made = recipe.make(node, "optimiser")
    params = {"a": jnp.ones((3, 2))}
    want = getattr(optax, path.split(":")[1])(learning_rate=0.1)
    for optimiser in (made, want):
        updates, _ = optimiser.update({"a": jnp.full((3, 2), 0.5)}, optimiser.init(params), params)
        assert np.abs(updates["a"]).max() > 0
    jax.tree.map(
        np.testing.assert_array_equal,
        *(o.update({"a": jnp.full((3, 2), 0.5)}, o.init(params), params)[0] for o in (made, want)),
    )


NAN, INF = float("nan"), float("inf")
BAD = {
    "learning_rate": (0.0, -1.0, 1e40, NAN, INF),
    "warmup": (-1, 2**31),
    "decay": ("step", ""),
    "b1": (-0.1, 1.0, 2.0, NAN),
    "b2": (-0.1, 1.0, 2.0, NAN),
    "eps": (0.0, 1e-46, -1.0, NAN, INF),
    "weight_decay": (-1.0, NAN, INF),
    "clip_norm": (0.0, -1.0, NAN, INF),
    "train_steps": (0, 2**31),
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        adam(**{name: value})


def test_every_field_has_bad_values_above():
    assert set(BAD) == set(inspect.signature(OPTIMISERS["Adam"]).parameters)


def test_a_decay_to_nowhere_is_refused():
    with pytest.raises(ValueError, match="decay=cosine needs train_steps"):
        adam(decay="cosine")
