"""NNX modules as Linen networks: their outputs, gradients and a step of training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cfg_jax.networks import UNet, from_nnx

RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(3, 4, 2)), jnp.float32)
LAM = jnp.array([-3.0, 0.0, 5.0])
COND = {"label": jnp.array([0, 2, 4])}
NOISE = jnp.asarray(RNG.normal(size=(3, 4, 2)), jnp.float32)


class Net(nnx.Module):
    takes = ("label",)

    def __init__(self, width, *, depth=2, rate=0.0, rngs):
        self.label = nnx.Embed(5, width, rngs=rngs)
        self.first = nnx.Linear(3, width, rngs=rngs)
        self.layers = nnx.List(nnx.Linear(width, width, rngs=rngs) for _ in range(depth))
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.last = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, z, logsnr, cond):
        level = jnp.broadcast_to(jnp.asarray(logsnr) / 10, z.shape[:1])[:, None, None]
        level = jnp.broadcast_to(level, (*z.shape[:2], 1))
        h = self.first(jnp.concatenate([z, level], axis=-1)) + self.label(cond["label"])[:, None]
        for layer in self.layers:
            h = self.dropout(nnx.silu(layer(h)))
        return self.last(h)


class Velocity(nnx.Module):
    """Says what it predicts, and takes nothing."""

    predicts = "v"

    def __init__(self, rngs):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, z, logsnr, cond, train=False):
        return (2.0 if train else 1.0) * self.scale[...] * z


class Fixed(nnx.Module):
    """Has no parameters, and asks for no random streams."""

    def __call__(self, z, logsnr, cond):
        return 3.0 * z


@pytest.fixture(scope="module")
def pair():
    """A network, its variables, and the NNX module with the same parameters."""
    network = from_nnx(Net, width=8, depth=3)
    variables = network.init(jax.random.key(1), Z, LAM, COND)
    return network, variables, Net(8, depth=3, rngs=nnx.Rngs(1))


def same(ours, theirs):
    """Compares our nested dictionary with a state of theirs."""
    flat = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(theirs)}
    mine, _ = jax.tree_util.tree_flatten_with_path(ours)
    mine = {"/".join(key.key for key in path): leaf for path, leaf in mine}
    assert set(mine) == set(flat)
    for name, leaf in mine.items():
        np.testing.assert_allclose(leaf, flat[name], rtol=1e-5, atol=1e-6, err_msg=name)


def numbered(tree):
    """The same, the names of entries of lists as numbers."""
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: numbered(value) for k, value in tree.items()}


def with_parameters_of(module, variables):
    """The module, with the parameters of our variables."""
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, numbered(variables["params"]["module"]))
    nnx.update(module, state)
    return module


def test_outputs_and_gradients_are_those_of_the_module(pair):
    network, variables, module = pair
    module = with_parameters_of(module, variables)
    same(variables["params"]["module"], nnx.state(module, nnx.Param))
    got = network.apply(variables, Z, LAM, COND)
    np.testing.assert_allclose(got, module(Z, LAM, COND), rtol=1e-6)

    def error(v):
        return jnp.square(network.apply(v, Z, LAM, COND) - NOISE).mean()

    theirs = nnx.grad(lambda m: jnp.square(m(Z, LAM, COND) - NOISE).mean())(module)
    same(jax.jit(jax.grad(error))(variables)["params"]["module"], theirs)


def test_a_step_of_training_moves_every_parameter_as_nnxs_own_optimiser_does(pair):
    network, variables, module = pair
    module = with_parameters_of(module, variables)
    rule = optax.adam(1e-2)

    @jax.jit
    def step(v, state):
        def error(v):
            out = network.apply(v, Z, LAM, COND, train=True, rngs={"dropout": jax.random.key(0)})
            return jnp.square(out - NOISE).mean()

        updates, state = rule.update(jax.grad(error)(v), state, v)
        return optax.apply_updates(v, updates), state

    after, _ = step(variables, rule.init(variables))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after, variables)
    assert min(jax.tree.leaves(moved)) > 1e-3

    optimiser = nnx.Optimizer(module, rule, wrt=nnx.Param)
    gradient = nnx.grad(lambda m: jnp.square(m(Z, LAM, COND) - NOISE).mean())(module)
    optimiser.update(module, gradient)
    same(after["params"]["module"], nnx.state(module, nnx.Param))


def test_dropout_is_on_in_training_alone_and_drawn_from_its_key(pair):
    _, variables, _ = pair
    network = from_nnx(Net, width=8, depth=3, rate=0.5)
    still = network.apply(variables, Z, LAM, COND)
    np.testing.assert_array_equal(still, network.apply(variables, Z, LAM, COND))
    one, again, two = (
        network.apply(variables, Z, LAM, COND, train=True, rngs={"dropout": jax.random.key(i)})
        for i in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 1e-3
    assert np.abs(one - still).max() > 1e-3


def test_train_is_passed_where_the_call_declares_it():
    network = from_nnx(Velocity)
    variables = network.init(jax.random.key(0), Z, LAM)
    np.testing.assert_array_equal(network.apply(variables, Z, LAM, {}), Z)
    np.testing.assert_array_equal(network.apply(variables, Z, LAM, {}, train=True), 2.0 * Z)


def test_what_it_takes_and_predicts_are_the_modules():
    assert (from_nnx(Net, width=8).takes, from_nnx(Net, width=8).predicts) == (("label",), None)
    assert (from_nnx(Velocity).takes, from_nnx(Velocity).predicts) == ((), "v")


def test_a_module_without_parameters_is_a_network_too():
    network = from_nnx(Fixed)
    variables = network.init(jax.random.key(0), Z, LAM)
    np.testing.assert_array_equal(network.apply(variables, Z, LAM), 3.0 * Z)


def test_equal_arguments_make_equal_networks():
    one = from_nnx(Net, width=8, depth=2)
    assert one == from_nnx(Net, depth=2, width=8)
    assert hash(one) == hash(from_nnx(Net, depth=2, width=8))
    assert one != from_nnx(Net, width=9, depth=2)


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, z, logsnr, cond):
        return self.norm(z)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_nnx(Normed), "Normed has variables that are no parameters, BatchStat"),
        (lambda: from_nnx(UNet), r"takes a class of flax.nnx.Module"),
        (lambda: from_nnx(Net, width=[8]), "the fields of Net must be hashable"),
    ],
)
def test_what_cannot_be_trained_so_is_refused(make, message, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        make()
