"""What a recipe and the data make together, and what does not fit is refused in one line."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny, tiny_unet

from cfg_jax import recipe
from cfg_jax.blueprint import blueprint, profiles, sampling
from cfg_jax.conditions import Label, Small, Vector
from cfg_jax.diffusion import prediction
from cfg_jax.objectives import Hybrid
from cfg_jax.parts import Beside, Classes, Facts

FACTS = Facts(
    (8, 8, 1),
    tuple("0123456789"),
    {
        "label": jax.ShapeDtypeStruct((), jnp.int32),
        "vector": jax.ShapeDtypeStruct((3,), jnp.float32),
    },
)


class OnlyV(nn.Module):
    """A network that predicts v, and nothing else."""

    takes = ("label",)
    predicts = "v"

    @nn.compact
    def __call__(self, z, logsnr, cond):
        return nn.Conv(z.shape[-1], (3, 3))(z)


class Mute(nn.Module):
    """A network that does not say what entries it takes."""

    def __call__(self, z, logsnr, cond):
        return z


class Short(nn.Module):
    """A network that is asked of z alone."""

    takes = ("label",)

    def __call__(self, z):
        return z


def with_network(kind):
    config = tiny()
    config.network = recipe.node(kind)
    return config


def test_the_parts_are_fitted_to_each_other_and_to_the_data():
    config = tiny()
    config.condition.small = recipe.node(Small, factor=2, logsnr_min=0.0)
    config.objective.target = "v"
    plan = blueprint(config, FACTS)
    assert dict(plan.network.inlets) == {
        "label": Classes(11),
        "small": Beside((4, 4, 1), noised=True),
    }
    assert plan.shape == (8, 8, 1)
    assert plan.objective.kind is prediction.V
    assert hash(plan.facts) == hash(blueprint(config, FACTS).facts)
    variables = jax.eval_shape(plan.init, jax.random.key(0))
    assert {"label", "small_level_0", "small_level_1"} <= set(variables["params"])


def test_z_has_the_codecs_shape():
    config = tiny_unet()
    config.codec = recipe.node("Folded", factor=2)
    plan = blueprint(config, FACTS)
    assert plan.shape == (4, 4, 4)
    first = jax.eval_shape(plan.init, jax.random.key(0))["params"]["input"]
    assert jax.tree.leaves(first)[-1].shape[-2:] == (4, 8)


def test_the_bound_of_a_variance_has_the_recipes_schedule():
    config = tiny()
    config.network.learned_variance = True
    config.objective = recipe.node(Hybrid)
    plan = blueprint(config, FACTS)
    assert plan.objective.schedule == plan.schedule


@pytest.mark.parametrize("target", ["eps", "x", "flow", "edm"])
def test_a_network_that_predicts_something_else_than_the_target_is_refused(target):
    config = with_network(OnlyV)
    config.objective.target = target
    line = f"OnlyV predicts v, so config.objective.target must be v; got {target}"
    with pytest.raises(ValueError, match=f"^{line}$"):
        blueprint(config, FACTS)
    config.objective.target = "v"
    assert blueprint(config, FACTS).objective.kind is prediction.V


@pytest.mark.parametrize(
    ("config", "facts", "line"),
    [
        (lambda: with_network(Mute), FACTS, "Mute does not say what entries it `takes`"),
        (lambda: with_network(Short), FACTS, r"Short must be called as \(z, logsnr, cond\)"),
        (
            lambda: entries(with_network(OnlyV), label=None),
            FACTS,
            "the network takes label, which the recipe does not make: add config.condition.label",
        ),
        (
            lambda: entries(with_v(), vector=recipe.node(Vector)),
            FACTS,
            "config.condition has vector, which OnlyV does not take",
        ),
        (tiny, FACTS._replace(class_names=()), "config.condition.label: label is a Label, and"),
        (
            lambda: entries(tiny(), vector=recipe.node(Vector, length=4)),
            FACTS,
            r"config.condition.vector: vector is a Vector of length 4, and the data have vector of",
        ),
        (
            lambda: entries(tiny(), small=recipe.node(Small, factor=3)),
            FACTS,
            "config.condition.small: small is enlarged 3 times, .* a multiple of 3; got 8×8",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(config, facts, line):
    with pytest.raises(ValueError, match=line) as error:
        blueprint(config(), facts)
    assert "\n" not in str(error.value)


def with_v():
    config = with_network(OnlyV)
    config.objective.target = "v"
    return config


def entries(config, **nodes):
    for name, node in nodes.items():
        config.condition[name] = node
    return config


def test_how_a_recipe_samples():
    config = tiny()
    config.sample.solver = recipe.node("Heun", gamma=0.1)
    config.guidance = recipe.node("PlusPlus")
    found = sampling(config)
    assert (found.w, found.steps, found.solver.gamma) == (0.5, 2, 0.1)
    config.sample.solver = None
    with pytest.raises(ValueError, match=r"config.sample.solver must read ε̂ for PlusPlus guidance"):
        sampling(config)


def test_the_first_average_is_what_sampling_uses():
    config = tiny()
    config.averages.wide = recipe.node("Power", width=0.2)
    first, second = profiles(config)
    assert (first.decay, second.width) == (0.9999, 0.2)
    config.averages.ema = None
    assert profiles(config) == [second]
    config.averages.wide = None
    with pytest.raises(ValueError, match=r"config.averages must hold one average at least"):
        profiles(config)


def test_a_null_stands_for_each_entry_that_may_be_hidden():
    config = tiny()
    config.condition.label = recipe.node(Label, p_uncond=0.0, has_null=False)
    plan = blueprint(config, FACTS)
    assert dict(plan.network.inlets)["label"] == Classes(10)
    leaf = jax.eval_shape(plan.init, jax.random.key(0))["params"]["label"]["embedding"]
    assert leaf.shape[0] == 10
    np.testing.assert_array_equal([len(made.class_names) for _, made in plan.conditioners], [10])
