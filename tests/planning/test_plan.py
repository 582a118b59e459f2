"""Plans of the tiny recipe on CPU devices that pass for chips."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from analyses import analysis
from recipes import tiny_unet

from cfg_jax import parts
from cfg_jax.data.dataset import LABEL
from cfg_jax.guidance.methods import Autoguidance
from cfg_jax.networks import UNet
from cfg_jax.objectives import Denoising
from cfg_jax.planning import plan as plans
from cfg_jax.planning.report import markdown
from cfg_jax.recipe import copied, node

DATA = {"facts": parts.Facts((8, 8, 1), tuple("0123456789"), LABEL)}


def split(**changed):
    config = tiny_unet()
    config.mesh.min_size = 1
    config.update_from_flattened_dict({name.replace("__", "."): v for name, v in changed.items()})
    return config


@pytest.fixture(scope="module")
def plan(slice_, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return plans.make_plan(split(), slice_, **DATA)


@pytest.mark.slow
def test_the_state_is_counted_leaf_by_leaf(plan):
    network = UNet(
        channels=8,
        channel_mult=(1,),
        blocks=1,
        attention_resolutions=(),
        head_channels=8,
        inlets=(("label", parts.Classes(11)),),
    )
    z, logsnr, label = (
        jax.ShapeDtypeStruct(s, d)
        for s, d in (((1, 8, 8, 1), "float32"), ((1,), "float32"), ((1,), "int32"))
    )
    shapes = jax.eval_shape(network.init, jax.random.key(0), z, logsnr, {"label": label})
    entries = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert plan.parameters == entries
    # Adam has two moments and a count, its learning rate another count, the clip nothing.
    assert plan.state == {
        "parameters": 4 * entries,
        "their averages": 4 * entries,
        "the optimiser's": 8 * entries + 8,
    }
    assert plan.frozen == 0


@pytest.mark.slow
def test_a_gradient_is_reduced_once_and_nothing_else_of_size(plan):
    sent = [c for c in plan.training.collectives if c.bytes > 1024]
    assert {c.kind for c in sent} == {"all-reduce"}
    # The gradient and the metrics, no activation.
    assert sum(c.bytes for c in sent) == pytest.approx(plan.state["parameters"], rel=0.02)


def test_sampling_is_two_evaluations_a_step_for_every_image(plan):
    """A training step is three of one evaluation, but for the gradient by the image."""
    assert plan.samples == plan.config.train.batch_size == 16
    assert plan.config.sample.steps == 2
    steps_by_two = 2 * 2
    forward = plan.sampling.flops / steps_by_two
    assert 2.8 < plan.training.flops / forward < 3
    assert plan.sampling.collectives == ()


def test_images_on_a_chip(plan, slice_):
    assert plan.images == 2
    with pytest.raises(ValueError, match="number of devices, 8"):
        plans.make_plan(split(train__batch_size=12), slice_, **DATA)
    with pytest.raises(ValueError, match=r"mesh.fsdp must divide the number of devices, 8; got 3"):
        plans.make_plan(split(mesh__fsdp=3), slice_, **DATA)


@pytest.mark.slow
def test_fsdp_divides_the_state_and_gathers_each_parameter_once(plan, slice_):
    there = plans.make_plan(split(mesh__fsdp=8), slice_, **DATA, samples=0)
    assert there.sampling is None
    # Biases and kernels of one channel have no dimension of 8.
    assert sum(plan.state.values()) / 8 <= sum(there.state.values()) < sum(plan.state.values()) / 7
    assert there.training.flops == plan.training.flops
    gathered = sum(c.runs * c.bytes for c in there.training.collectives if c.kind == "all-gather")
    assert gathered == pytest.approx(plan.state["parameters"], rel=0.02)


@pytest.mark.slow
def test_the_search_ends_at_the_largest_batch_that_the_compiler_takes(slice_, monkeypatch):
    """With a compiler that needs 100 MB and 20 MB an image, of 1 GiB."""
    made = []

    def compiled(program, config, topology, report):
        images = config.train.batch_size // 8
        made.append(images)
        used = 100_000_000 + 20_000_000 * images
        return dataclasses.replace(faked, used=used, fits=used <= topology.chip.hbm)

    faked = analysis()
    monkeypatch.setattr(plans, "_step", compiled)
    best, trials = plans.search(split(), slice_, **DATA)
    assert best.train.batch_size == 8 * 48
    assert [t.images for t in trials] == made
    assert made[0] == 2

    monkeypatch.setattr(
        plans, "_step", lambda *a: dataclasses.replace(faked, fits=False, used=2**31)
    )
    with pytest.raises(ValueError, match=r"no batch fits cpu:8: one image a chip needs 2.00 GiB"):
        plans.search(split(train__batch_size=8), slice_, **DATA)


@pytest.mark.slow
def test_frozen_parameters_stand_in_the_table_and_are_read_by_the_step(slice_, pupil):
    config, teacher = pupil
    there = plans.make_plan(config, slice_, **DATA)
    assert there.frozen == sum(4 * leaf.size for leaf in jax.tree.leaves(teacher))
    assert there.frozen == there.state["parameters"]  # as large a network
    table = markdown(there, title="it")
    assert re.search(r"\| · frozen parameters +\| +0\.00 GiB \|", table)
    # The sampler asks for both halves at each of two steps. A step asks the pupil once for each
    # part of its loss, forwards and backwards, and the teacher once, forwards.
    plain = copied(config)
    plain.objective = node(Denoising, target="v")
    alone = plans.make_plan(plain, slice_, **DATA, samples=0)
    assert alone.frozen == 0
    forward = there.sampling.flops / (2 * 2)
    assert there.training.flops == 2 * alone.training.flops + forward


def test_autoguidance_is_planned_with_a_network_as_large(slice_, monkeypatch):
    models = []

    def analysed(function, arguments, topology, **_):
        models.append(arguments[0])
        return analysis()

    monkeypatch.setattr(plans, "analyse", analysed)
    config = split()
    config.guidance = node(Autoguidance, weak="runs/weak")
    plans.make_plan(config, slice_, **DATA)
    _, model = models
    assert jax.tree.map(jnp.shape, model.weak.params) == jax.tree.map(jnp.shape, model.params)
    leaves = [type(leaf) for leaf in jax.tree.leaves(model.guided(1.0))]
    assert leaves.count(jax.ShapeDtypeStruct) == 2 * len(jax.tree.leaves(model.params))
