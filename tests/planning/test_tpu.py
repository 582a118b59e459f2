"""The real TPU compiler, on a tiny network: what it sends, and what memory it takes."""

import importlib.util
import math
import re

import jax
import pytest
from recipes import tiny_unet

from cfg_jax.data.dataset import LABEL
from cfg_jax.parts import Facts
from cfg_jax.planning import hlo, topology
from cfg_jax.planning import plan as plans

pytestmark = [
    pytest.mark.tpu_compiler,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="needs the TPU compiler, though no TPU: pip install 'cfg-jax[tpu-plan]'",
    ),
]

FACTS = Facts((16, 16, 3), tuple("0123456789"), LABEL)
CHIPS = 4


@pytest.fixture(scope="module", autouse=True)
def optimised():
    """What a TPU would be given."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def slice_():
    return topology.load("v5e:2x2")


def recipe(*, images, fsdp, channels=256):
    """Wide, so that parameters outweigh code, and activations what stays on the chip."""
    config = tiny_unet()
    config.network.channels, config.network.head_channels = channels, 256
    config.network.dtype = "bfloat16"
    config.mesh.fsdp, config.mesh.min_size = fsdp, 1024
    config.train.batch_size = CHIPS * images
    return config


@pytest.fixture(scope="module")
def planned(slice_, tmp_path_factory):
    """Plans of the training step, each compiled once: `planned(images=, fsdp=, channels=)`."""
    made = {}
    cache = tmp_path_factory.mktemp("cache")

    def plan(**of):
        key = tuple(of.items())
        if key not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XDG_CACHE_HOME", str(cache))
                made[key] = plans.make_plan(recipe(**of), slice_, samples=0, facts=FACTS)
        return made[key]

    return plan


def entries(array):
    return math.prod(int(n) for n in re.search(r"\[([\d,]*)\]", array)[1].split(",") if n)


def parameters(plan):
    """Entries of each parameter, split or not."""
    leaves = jax.tree.leaves(plan.layout.params)
    split = [leaf.size for leaf in leaves if leaf.sharding.spec]
    return split, [leaf.size for leaf in leaves if not leaf.sharding.spec]


def test_without_fsdp_the_gradient_is_reduced_once_and_nothing_is_gathered(planned):
    plan = planned(images=64, fsdp=1)
    assert plan.training.fits
    assert {c.kind for c in plan.training.collectives} == {"all-reduce"}
    reduced = sum(entries(a) for c in plan.training.collectives for a in c.arrays)
    # Biases that one sum reaches have one gradient; and there are losses, counts and norms.
    assert reduced == pytest.approx(plan.parameters, rel=0.002)


def test_with_fsdp_each_split_parameter_is_gathered_once_and_its_gradient_scattered(planned):
    plan = planned(images=64, fsdp=CHIPS)
    split, whole = parameters(plan)
    of = {kind: [] for kind in hlo.KINDS}
    for c in plan.training.collectives:
        assert c.group == CHIPS
        of[c.kind] += [entries(a) for a in c.arrays]
    # No activation is gathered, and nothing twice.
    assert sorted(of["all-gather"]) == sorted(split)
    # Some gradients are scattered share by share, while their products are still being computed.
    shares = {CHIPS * count for count in of["collective-permute"]}
    assert shares <= set(split)
    scattered = of["reduce-scatter"] + [CHIPS * n / (CHIPS - 1) for n in of["collective-permute"]]
    # Others, of 1×1 kernels and tables, are reduced whole, as are those of biases.
    reduced = sum(of["all-reduce"])
    assert reduced < 0.1 * sum(split) + sum(whole) + 500
    assert 0.9 * plan.parameters < sum(scattered) + reduced < 1.5 * plan.parameters


def test_memory_falls_as_the_state_is_split(planned):
    """Where it outweighs the activations; with more of them, the compiler is free to spend more."""
    whole, split = (planned(images=8, fsdp=fsdp, channels=512) for fsdp in (1, CHIPS))
    saved = sum(whole.state.values()) - sum(split.state.values())
    assert saved > 0.7 * sum(whole.state.values())
    # The gradient is split too, the parameters are gathered.
    assert whole.training.used - split.training.used > 0.6 * saved


def test_memory_grows_with_the_batch(planned):
    used = [planned(images=images, fsdp=1).training.used for images in (64, 128, 256)]
    assert used[0] < used[1] < used[2] < 8 * used[0]


def test_a_network_too_large_is_refused_with_what_it_needs(slice_, monkeypatch, tmp_path):
    """One array of 32 GiB a chip, on 15.75."""
    from cfg_jax.planning.analysis import analyse
    from cfg_jax.runtime.mesh import device_mesh, split

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mesh = device_mesh(1, slice_.devices)
    x = jax.ShapeDtypeStruct((CHIPS * 2**16, 2**16), "float32", sharding=split(mesh))
    found = analyse(jax.jit(lambda x: x + 1.0), (x,), slice_, name="it")
    assert not found.fits
    assert found.used == pytest.approx(2 * 2**34, rel=0.01)


def test_a_network_of_somebody_elses_is_planned_with_its_frozen_teacher(slice_, pupil):
    """A transformer over sequences of words, a codec and an objective of another package."""
    config, teacher = pupil
    there = plans.make_plan(config, slice_, facts=FACTS._replace(shape=(8, 8, 1)))
    assert there.training.fits
    assert there.sampling.fits
    assert there.frozen == sum(4 * leaf.size for leaf in jax.tree.leaves(teacher.params))
    assert there.sampling.collectives == ()
    reduced = {c.kind for c in there.training.collectives if c.bytes > 1024}
    assert reduced == {"all-reduce"}
