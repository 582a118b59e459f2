"""Collectives against programs written with them, and the forms that the TPU compiler has."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from cfg_jax.planning import hlo
from cfg_jax.planning.hlo import Collective


def compiled(function, *shapes, out):
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P("b"), out_specs=out, check_vma=False)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(mapped).lower(*arguments).compile().as_text()


def test_every_kind_with_its_bytes_and_its_group():
    """Each device has (16, 8) of (64, 8)."""
    whole = 64 * 8 * 4
    for function, out, expected in (
        (lambda x: lax.psum(x, "b"), P(), ("all-reduce", whole / 4, 4)),
        (lambda x: lax.psum(x, ("a", "b")), P(), ("all-reduce", whole / 4, 8)),
        (lambda x: lax.all_gather(x, "b"), P(), ("all-gather", whole, 4)),
        (lambda x: lax.all_gather(x, "a"), P(), ("all-gather", whole / 2, 2)),
        (
            lambda x: lax.psum_scatter(x, "b", tiled=True),
            P("b"),
            ("reduce-scatter", whole / 4, 4),
        ),
        (
            lambda x: lax.ppermute(x, "b", [(i, (i + 1) % 4) for i in range(4)]),
            P("b"),
            ("collective-permute", whole / 4, None),
        ),
    ):
        (found,) = hlo.collectives(compiled(function, (64, 8), out=out), 8)
        kind, size, group = expected
        assert (found.kind, found.bytes, found.runs) == (kind, size, 1)
        assert group in (None, found.group)


def test_a_collective_in_a_loop_runs_as_often():
    def loop(x):
        def body(c, _):
            return lax.psum(jnp.sin(c), "b"), None

        def nested(c, _):
            return lax.scan(body, c, None, length=3)

        return lax.scan(nested, x, None, length=5)[0]

    (found,) = hlo.collectives(compiled(loop, (64, 8), out=P()), 8)
    assert (found.kind, found.runs) == ("all-reduce", 15)


def test_no_collective_is_found_where_there_is_none():
    assert hlo.collectives(compiled(jnp.sin, (64, 8), out=P("b")), 8) == []


@pytest.mark.parametrize("group", [2, 4, 8])
def test_sent_bytes_are_those_of_a_ring(group):
    """Counted chunk by chunk: at each turn every chip hands one of `group` chunks on."""
    array = f"f32[{group * 3}]"
    chunk = 3 * 4
    around = sum(chunk for _ in range(group - 1))
    sent = {kind: Collective(kind, (array,), group, 1).sent for kind in hlo.KINDS}
    assert sent["all-gather"] == pytest.approx(around)
    assert sent["reduce-scatter"] == pytest.approx(around)
    assert sent["all-reduce"] == pytest.approx(2 * around)
    # Each chip keeps one part of its own share and sends one to each of the others.
    assert sent["all-to-all"] == pytest.approx(chunk / group * (group - 1))
    assert sent["collective-permute"] == group * chunk


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        ("f32[3,5]", 60),
        ("bf16[7]", 14),
        ("pred[9]", 9),
        ("s32[]", 4),
        ("s4[6]", 3),
        ("f8e4m3fn[5]", 5),
    ],
)
def test_bytes_of_arrays(array, expected):
    assert hlo.size(array) == expected


TPU = (Path(__file__).parent / "tpu.hlo").read_text()


def test_the_tpu_compilers_forms():
    found = sorted(hlo.collectives(TPU, 4), key=lambda c: (c.kind, c.bytes))
    assert found == [
        Collective("all-gather", ("f32[16]",), 4, 1),
        Collective("all-gather", ("bf16[8,16]",), 4, 1),  # once, though written twice
        Collective("all-reduce", ("f32[8,16]",), 2, 6),
        Collective("reduce-scatter", ("f32[8,16]",), 4, 1),
    ]


def test_traffic_of_the_tpu_compilers_forms_by_hand():
    whole, gathered, part = 8 * 16 * 4, 8 * 16 * 2, 2 * 16 * 2
    once = (
        part  # the first fusion reads its part, and keeps all on the chip
        + (part + gathered)
        + (whole + 16 * 4)  # all-gather-start, and what is done
        + (whole + 4 * 4)  # the all-reduce over one chip each
        + whole  # the reduce-scatter, which keeps its result on the chip
        + 4 * 4 * 4 * 2  # a slice of a, copied to the chip and back
    )
    loop = 6 * (2 * whole + 2 * 4 + 1)
    assert hlo.traffic(TPU) == once + loop


def test_traffic_of_a_loop_by_hand():
    """Twelve steps: each reads the carry and the weight and writes the product; then the sine."""

    def looped(x, weight):
        return lax.scan(lambda c, _: (jnp.sin(c @ weight), None), x, None, length=12)[0]

    arguments = [jax.ShapeDtypeStruct((256, 256), jnp.float32)] * 2
    compiled = jax.jit(looped).lower(*arguments).compile()
    found = hlo.traffic(compiled.as_text())
    assert found == pytest.approx(12 * (3 + 2) * 256 * 256 * 4, rel=0.1)
