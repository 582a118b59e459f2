"""The recipes that come with the package."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cfg_jax import recipe, schedules, solvers
from cfg_jax.cli import recipes
from cfg_jax.parts import Classes, Sequence

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_is_allowed_and_says_how_it_is_run(path):
    config = recipes.read(path.stem)
    if config.data.get("path") == "":
        with pytest.raises(ValueError, match=r"config\.data\.path "):
            recipe.check(config)
        config.data.path = "pictures"
    recipe.check(config)
    assert recipe.unflatten(recipe.flatten(config)) == config
    assert f"--config configs/{path.name}" in ast.get_docstring(ast.parse(path.read_text()))


def test_the_recipes_that_there_were_still_are():
    assert {path.stem for path in CONFIGS} >= {
        "cifar10",
        "cifar10_upscale",
        "digits",
        "digits_classifier",
        "digits_upscale",
        "folder",
        "imagenet128",
        "imagenet64",
    }


@pytest.mark.parametrize(
    ("name", "side", "inlet", "millions", "codec"),
    [
        ("imagenet256_ldm4", (64, 64, 3), Sequence(1, 512), 400.92, 55_322_782),
        ("imagenet256_dit_xl2", (32, 32, 4), Classes(1001), 674.83, 83_653_863),
    ],
)
@pytest.mark.slow
def test_latent_imagenet_has_the_published_sizes(name, side, inlet, millions, codec):
    """What the published code prints of LDM-4; the paper's table of DiT; VQ-f4 and KL-f8."""
    config = recipes.read(name)
    network = recipe.make(config.network, "network", inlets=(("label", inlet),))
    assert round(entries(network.shapes(side)) / 1e6, 2) == millions
    made = recipe.make(config.codec, "codec")
    assert entries(made.shapes((256, 256, 3))) == codec
    z = jax.eval_shape(
        lambda x: made.init_with_output(jax.random.key(0), x, method="encode")[0],
        jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32),
    )
    assert z.shape == (1, *side)


def entries(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_imagenet_recipe_has_the_papers_settings():
    config = recipes.read("imagenet64")
    schedule = recipe.make(config.schedule, "schedule")
    assert schedule == schedules.Cosine(logsnr_min=-20.0, logsnr_max=20.0)
    sample = recipe.block(config, "sample")
    assert (config.condition.label.p_uncond, sample.steps) == (0.1, 256)
    assert sample.solver == solvers.Ancestral(v=0.3)
    network = recipe.make(config.network, "network", inlets=(("label", Classes(1001)),))
    z, label = jnp.zeros((1, 64, 64, 3)), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), z, jnp.zeros(1), {"label": label})
    assert round(entries(shapes) / 1e6) == 296
