"""What a report says, of plans whose figures are known."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from analyses import analysis
from recipes import tiny

from cfg_jax.data.dataset import LABEL
from cfg_jax.parts import Facts
from cfg_jax.planning.hlo import Collective
from cfg_jax.planning.plan import Plan
from cfg_jax.planning.report import advice, markdown
from cfg_jax.planning.search import Trial
from cfg_jax.runtime.mesh import device_mesh, replicated
from cfg_jax.training.program import build
from cfg_jax.training.state import State

GIB = 2**30
FACTS = Facts((8, 8, 1), tuple("0123456789"), LABEL)


@pytest.fixture
def plan(slice_):
    """One step takes 5 s at 40 % of the peak, two at all of it: a batch of 1,600 images."""
    config = tiny()
    config.train.batch_size, config.train.steps = 1600, 43_200
    config.mesh.min_size = 1
    whole = replicated(device_mesh(1, slice_.devices))

    def of(size):
        return jax.ShapeDtypeStruct((size,), jnp.int8, sharding=whole)

    return Plan(
        config=config,
        topology=slice_,
        facts=FACTS,
        parameters=1_000_000,
        layout=State(None, None, of(GIB // 8), (of(GIB // 8),), of(GIB // 4)),
        frozen=0,
        training=analysis(used=3 * GIB // 4, collectives=()),
        sampling=analysis(used=GIB // 4, flops=8_000_000, collectives=()),
        samples=800,
    )


def rows(text):
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells}


def test_times_and_rates_of_training(plan):
    found = rows(markdown(plan, title="it"))
    assert (
        found["images a second at 100% of the peak"] != found["images a second at 40% of the peak"]
    )
    training = rows(markdown(dataclasses.replace(plan, sampling=None), title="it"))
    assert training["images a second at 100% of the peak"] == ["800"]
    assert training["images a second at 40% of the peak"] == ["320"]
    assert training["43,200 steps at 100%"] == ["1.00 days"]
    assert training["43,200 steps at 40%"] == ["2.50 days"]
    assert training["FLOPs an image"] == ["10 KFLOP"]
    assert training["memory used"] == ["0.75 GiB of 1.00 GiB"]
    assert training["· all else: activations, gradients, batch, code"] == ["0.25 GiB"]
    assert training["least time"] == [
        "arithmetic 2.00 s, memory 500 ms, links 0 ms: bound by arithmetic"
    ]
    assert training["FLOPs a byte of memory"] == ["4,000; the chip's balance is 1,000"]


def test_frozen_parameters_are_a_row_of_their_own(plan):
    assert "frozen" not in markdown(plan, title="it")
    found = rows(markdown(dataclasses.replace(plan, frozen=GIB // 8), title="it"))
    assert found["· frozen parameters"] == ["0.12 GiB"]
    assert found["· all else: activations, gradients, batch, code"] == ["0.12 GiB"]


def test_the_data_are_told(plan):
    assert "data of 8×8×1, 10 classes. Batch 1,600" in markdown(plan, title="it")
    alone = dataclasses.replace(plan, facts=Facts((2048, 1), (), {}))
    assert "data of 2048×1. Batch 1,600" in markdown(alone, title="it")


def test_times_and_rates_of_sampling(plan):
    sampling = rows(markdown(plan, title="it").split("## Sampling")[1])
    assert sampling["FLOPs an image, 2 steps"] == ["10 KFLOP"]
    assert sampling["images a second at 100% of the peak"] == ["800.0"]
    assert sampling["50,000 images at 40%"] == ["2.6 minutes"]


def test_the_verdicts(plan):
    text = markdown(plan, title="it")
    assert text.startswith("# it on cpu:8\n")
    assert "## Training: it fits, with 0.25 GiB a chip to spare" in text
    assert "## Sampling: it fits, with 0.75 GiB a chip to spare" in text
    over = dataclasses.replace(plan, training=analysis(fits=False, used=5 * GIB // 4))
    text = markdown(over, title="it")
    assert "## Training: it does not fit, by 0.25 GiB a chip" in text
    assert "What would help" in text
    assert "images a second" not in text.split("## Sampling")[0]


@pytest.mark.parametrize("frozen", [0, GIB])
@pytest.mark.parametrize(("part", "fsdp"), [(0.4, 2), (0.6, 4), (0.8, 8), (2.0, 8)])
def test_advice_splits_the_state_as_far_as_needed(plan, slice_, part, fsdp, frozen):
    """Splitting it 2, 4 and 8 ways saves a half, three quarters, and seven eighths.

    What is frozen stays whole, so it saves nothing.
    """
    state = build(plan.config, FACTS, device_mesh(1, slice_.devices)).state
    there = dataclasses.replace(plan, layout=state, frozen=frozen)
    used = int(slice_.chip.hbm + part * sum(there.state.values()))
    over = dataclasses.replace(there, training=analysis(fits=False, used=used))
    assert f"`--config.mesh.fsdp={fsdp}`" in advice(over)[0]


def test_advice_tells_what_halving_the_rest_saves(plan):
    over = dataclasses.replace(plan, training=analysis(fits=False, used=3 * GIB // 2))
    said = "\n".join(advice(over))
    assert (
        "`--config.train.accumulate=2`: the same batch in more parts; about 0.50 GiB less" in said
    )
    assert "remat=products" in said
    assert "--search" in said


def test_advice_does_not_offer_what_is_done_already(plan):
    plan.config.mesh.fsdp, plan.config.train.accumulate = 8, 200
    plan.config.network.remat = "blocks"
    over = dataclasses.replace(plan, training=analysis(fits=False, used=3 * GIB // 2))
    (said,) = advice(over)
    assert "a smaller batch" in said


def test_collectives_are_one_row_a_kind_and_group(plan):
    some = (
        Collective("all-gather", ("bf16[100]", "bf16[20]"), 8, 2),
        Collective("all-gather", ("bf16[80]",), 8, 1),
        Collective("all-gather", ("bf16[80]",), 4, 1),
        Collective("all-reduce", ("f32[1000]",), 8, 3),
    )
    text = markdown(dataclasses.replace(plan, training=analysis(collectives=some)), title="it")
    lines = [line for line in text.splitlines() if line.startswith("| all-")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert found == [
        ["all-reduce", "8", "3", "3", "12 kB", "21 kB"],
        ["all-gather", "4", "1", "1", "160 B", "120 B"],
        ["all-gather", "8", "3", "5", "640 B", "560 B"],
    ]


def test_a_search_is_told(plan):
    trials = [Trial(100, GIB // 2, True, None), Trial(400, 2 * GIB, False, 2.0 * GIB)]
    text = markdown(plan, title="it", trials=trials)
    assert rows(text)["800"] == ["100", "0.50 GiB", "", "fits"]
    assert rows(text)["3,200"] == ["400", "2.00 GiB", "2.00 GiB", "does not fit"]


def test_tables_are_markdown(plan):
    for block in markdown(plan, title="it").split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
            assert set(block.splitlines()[1]) <= set("|-: ")
