"""Parts that fit their slots but not each other: refused in one line, before anything is compiled.

Every objective × every network is tried: a new one joins by itself.
"""

import contextlib

import jaxtyping
import pytest
import recipes
from recipes import smallest, tiny

from cfg_jax import recipe
from cfg_jax.data import Digits
from cfg_jax.networks import NETWORKS
from cfg_jax.objectives import OBJECTIVES
from cfg_jax.training.program import build

FACTS = Digits().open("train").facts
OWN = {
    ("Denoising", "UNet"),
    ("Denoising", "DiT"),
    ("CrossEntropy", "Encoder"),
    ("Reconstruction", "Coding"),
}
"""Those of them that train on labelled digits as they are."""


@pytest.fixture(autouse=True)
def unchecked_types(monkeypatch):
    """Types are not checked, as outside the tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def paired(objective, network):
    """The smallest recipe of both."""
    config = tiny()
    if network == "Coding":
        config.network = recipes.tiny_codec().network
    else:
        config.network = recipe.node(NETWORKS[network])
    if "channels" in config.network:
        smallest(config)
    for name, value in {"width": 8, "depth": 1, "heads": 1, "patch": 4}.items():
        if name in config.network and "codec" not in config.network:
            config.network[name] = value
    config.objective = recipe.node(OBJECTIVES[objective])
    if objective == "Reconstruction":
        config.condition.label = None
    if objective == "CrossEntropy":
        config.condition.label.p_uncond = 0.0
    return config


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_they_train_together_or_are_refused(objective, network):
    own = (objective, network) in OWN
    with contextlib.nullcontext() if own else contextlib.suppress(ValueError):
        build(paired(objective, network), FACTS)


@pytest.mark.parametrize(
    "name", ["optax:lbfgs", "optax.contrib:muon", "optax.contrib:dadapt_adamw", "optax:sgd"]
)
def test_an_optimiser_takes_gradients_alone_or_is_refused(name):
    config = tiny()
    config.optimiser = recipe.node(name)
    if "learning_rate" in config.optimiser and name != "optax:lbfgs":
        config.optimiser.learning_rate = 1e-3
    if name == "optax:lbfgs":
        with pytest.raises(ValueError, match=r"config\.optimiser: optax:lbfgs is no optimiser of"):
            build(config, FACTS)
    else:
        build(config, FACTS)


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (
            "Wider",
            r"a network must return an array of floats of z's shape, \(16, 8, 8, 1\), .* got",
        ),
        ("OneExample", r"of z's shape, .* got shape \(1, 8, 8, 1\)"),
        ("Whole", r"of floats of z's shape, .* got shape \(16, 8, 8, 1\) of int32"),
        ("Imaginary", r"of floats of z's shape, .* of complex64"),
        ("Nothing", "of z's shape, .* got None"),
        ("Two", "of z's shape, .* got a"),
        ("Needing", r"Needing must be called as \(z, logsnr, cond\)"),
        ("Batched", "Batched changes its variables as it runs, as BatchNorm does"),
        ("Numbered", r"Numbered\.takes must be a tuple of entries' names, .* got 3"),
        ("NoComma", "NoComma.takes must be a tuple of entries' names, .* got 'label'"),
    ],
)
def test_a_network_of_ones_own_with_a_mistake_is_refused(network, line):
    config = tiny()
    config.network = recipe.node(f"odd_networks:{network}")
    with pytest.raises(ValueError, match=line):
        build(config, FACTS)


@pytest.mark.parametrize(
    ("objective", "line"),
    [
        ("Fewer", r"Fewer\.losses must return .* \(16,\); got shape \(15,\)"),
        ("Counted", r"got shape \(16,\) of int32"),
        ("Unknown", "Unknown must be known to JAX: a dataclass below @jax.tree_util.register_d"),
    ],
)
def test_an_objective_of_ones_own_with_a_mistake_is_refused(objective, line):
    config = tiny()
    config.network = recipe.node("odd_networks:Own")
    config.objective = recipe.node(f"odd_networks:{objective}")
    with pytest.raises(ValueError, match=line):
        build(config, FACTS)


def test_a_network_may_take_more_than_it_is_given():
    config = tiny()
    config.network = recipe.node("odd_networks:Open")
    build(config, FACTS)
