"""What is kept of a compiled program, on devices that are there."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cfg_jax.planning.analysis import analyse, needed
from cfg_jax.runtime.mesh import device_mesh


@pytest.fixture
def weights(slice_):
    sharding = NamedSharding(device_mesh(8, slice_.devices), PartitionSpec("fsdp"))
    return jax.ShapeDtypeStruct((1024, 512), jnp.float32, sharding=sharding)


def test_flops_and_collectives_of_a_program_known_by_hand(slice_, weights):
    """The sum of x xᵀ, of which each device has an eighth."""
    found = analyse(jax.jit(lambda x: jnp.sum(x @ x.T)), (weights,), slice_, name="it")
    whole = 1024 * 512 * 4
    assert found.fits
    assert found.flops == 2 * 1024 * 1024 * 512
    (gather,) = (c for c in found.collectives if c.kind == "all-gather")
    assert (gather.bytes, gather.group) == (whole, 8)
    (reduce,) = (c for c in found.collectives if c.kind == "all-reduce")
    assert reduce.bytes == 4
    assert found.sent == pytest.approx(whole * 7 / 8 + 2 * 4 * 7 / 8)


@pytest.mark.parametrize(("donated", "shares"), [((), 2), (0, 1)])
def test_memory_of_results_in_and_beside_their_arguments(slice_, weights, donated, shares):
    jitted = jax.jit(lambda x: x + 1.0, donate_argnums=donated)
    assert analyse(jitted, (weights,), slice_, name="it").used == shares * 1024 * 512 * 4 // 8


def test_the_same_program_is_compiled_once_and_another_one_anew(slice_, weights, kept):
    lines = []

    def go(function):
        return analyse(jax.jit(function), (weights,), slice_, name="it", report=lines.append)

    first = go(lambda x: x * 2.0)
    assert len(lines) == 2
    assert go(lambda x: x * 2.0) == first
    assert len(lines) == 2
    go(lambda x: x * 3.0)
    assert len(lines) == 4
    assert len(list(kept.iterdir())) == 2
    go2 = slice_._replace(name="cpu:2x4")
    analyse(jax.jit(lambda x: x * 2.0), (weights,), go2, name="it", report=lines.append)
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (18.75G) exceeds available HBM (15.75G).",
            18.75 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 23.20G of 15.75G hbm. Exceeded hbm capacity by 7.45G.",
            23.20 * 2**30,
        ),
    ],
)
def test_a_refusal_tells_what_was_needed(message, expected):
    assert needed(RuntimeError(message)) == int(expected)


def test_another_error_is_not_taken_for_a_refusal():
    error = RuntimeError("INTERNAL: something else")
    with pytest.raises(RuntimeError, match="something else") as raised:
        needed(error)
    assert raised.value is error
