"""Recipes: every field checked, and two recipes told apart field by field."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cfg_jax.sampling import grids, solvers
from cfg_jax.training import config as recipe

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def changed(**fields):
    config = recipe.default()
    config.update_from_flattened_dict({name.replace("__", "."): v for name, v in fields.items()})
    return config


def test_the_default_and_every_recipe_are_allowed():
    recipe.check(recipe.default())
    assert {path.stem for path in CONFIGS} == {
        "cifar10",
        "cifar10_upscale",
        "digits",
        "digits_classifier",
        "digits_upscale",
        "folder",
        "imagenet128",
        "imagenet64",
    }
    for path in CONFIGS:
        module = runpy.run_path(str(path))
        recipe.check(module["get_config"]())
        assert f"--config configs/{path.name}" in module["__doc__"]


def test_the_imagenet_recipe_has_the_papers_settings():
    config = runpy.run_path(str(CONFIGS[0].parent / "imagenet64.py"))["get_config"]()
    schedule = recipe.schedule(config)
    assert (schedule.logsnr_min, schedule.logsnr_max) == (-20.0, 20.0)
    assert (config.p_uncond, config.sample.v, config.sample.steps) == (0.1, 0.3, 256)
    network = recipe.network(config, 1000)
    shapes = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)), 0.0, jnp.zeros(1, jnp.int32)
    )
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6) == 296


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schedule.name", "linear"),
        ("schedule.logsnr_min", 30.0),
        ("model.dtype", "float16"),
        ("model.blocks", 0),
        ("optim.decay", "step"),
        ("optim.warmup", -1),
        ("p_uncond", 1.5),
        ("sample.solver", "rk4"),
        ("sample.grid", "fine"),
        ("sample.eta", 2.0),
        ("sample.w", float("nan")),
        ("sample.steps", 0),
        ("sample.clip", "hard"),
        ("sample.percentile", 99.5),
        ("guidance.name", "stronger"),
        ("guidance.cond", 3),
        ("guidance.high", float("nan")),
        ("train.batch_size", 0),
        ("train.ema", (2.0,)),
    ],
)
def test_values_that_are_not_allowed_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field.split(".")[-1]):
        recipe.check(changed(**{field.replace(".", "__"): value}))


def test_a_field_that_does_not_exist_cannot_be_set():
    with pytest.raises(AttributeError):
        recipe.default().train.stepz = 3


def test_flatten_and_unflatten_are_inverse():
    config = changed(train__steps=7, model__channel_mult=(1, 3), p_uncond=0.2)
    again = recipe.unflatten(recipe.flatten(config))
    assert again == config
    assert again.model.channel_mult == (1, 3)


def test_differences_name_what_would_train_something_else():
    old, new = recipe.default(), changed(p_uncond=0.2, model__channels=32, train__log_every=3)
    assert recipe.differences(old, new) == ["model.channels: 64 -> 32", "p_uncond: 0.1 -> 0.2"]
    assert recipe.differences(old, changed(sample__w=4.0, sample__steps=10)) == []


def test_a_config_of_before_there_was_guidance_is_read():
    flat = recipe.flatten(changed(train__steps=7))
    old = {name: value for name, value in flat.items() if not name.startswith("guidance.")}
    assert recipe.unflatten(old) == changed(train__steps=7)


def test_plus_plus_needs_a_solver_that_sees_it():
    for solver in solvers.SOLVERS:
        config = changed(guidance__name="plus_plus", sample__solver=solver)
        if solver in ("ddim", "euler", "heun"):
            recipe.check(config)
        else:
            with pytest.raises(ValueError, match=f"one of ddim, euler, heun; got '{solver}'"):
                recipe.check(config)


def test_more_steps_only_go_on_unless_the_rate_decays_over_them():
    assert recipe.differences(recipe.default(), changed(train__steps=5)) == []
    old = changed(optim__decay="cosine")
    assert recipe.differences(old, changed(optim__decay="cosine", train__steps=5)) == [
        "train.steps: 100000 -> 5"
    ]


def test_the_learning_rate_warms_up_and_decays():
    config = changed(
        optim__learning_rate=0.1,
        optim__warmup=10,
        optim__decay="cosine",
        train__steps=110,
        optim__clip_norm=1e9,
    )
    optimizer = recipe.optimizer(config)
    params, state, moves = jnp.zeros(()), None, []
    state = optimizer.init(params)
    for _ in range(110):
        # Adam moves by the learning rate when every gradient is the same.
        updates, state = optimizer.update(jnp.ones(()), state, params)
        moves.append(-float(updates))
    step = np.arange(110)
    after = 0.05 * (1 + np.cos(np.pi * (step - 10) / 100))
    want = np.where(step < 10, 0.01 * step, after)
    np.testing.assert_allclose(moves, want, atol=1e-4)


def test_gradients_are_clipped_by_their_global_norm():
    optimizer = recipe.optimizer(changed(optim__clip_norm=0.5))
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    state = optimizer.init(gradient)
    _, state = optimizer.update(gradient, state, gradient)
    mean = optax.tree.get(state, "mu")
    np.testing.assert_allclose(mean["a"], 0.1 * 3.0 * 0.5 / 5.0, rtol=1e-5)


def test_solvers_and_grids_by_name():
    def named(**fields):
        config = changed(**{f"sample__{name}": value for name, value in fields.items()})
        return recipe.solver(config), recipe.grid(config)

    assert named(solver="ddim", eta=0.5) == (solvers.DDIM(eta=0.5), grids.UniformU())
    assert named(v=0.2)[0] == solvers.Ancestral(v=0.2)
    assert named(solver="unipc", order=3, grid="karras") == (solvers.UniPC(order=3), grids.Karras())
    assert named(solver="dpmpp", order=3, eta=1.0)[0] == solvers.DPMSolverPP(order=3, eta=1.0)
    assert named(solver="heun")[0] == solvers.Heun()
    assert named(solver="default") == (None, None)
