"""Frozen parameters: written once, named by every checkpoint, and none is read without them."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runtime_state import State

from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.runtime.frozen import FrozenError

RNG = np.random.default_rng(0)
FROZEN = {
    "codec": {"params": {"Conv_0": {"kernel": RNG.normal(size=(3, 4)).astype(np.float32)}}},
    "text": {"bias": RNG.normal(size=5).astype(jnp.bfloat16), "count": np.int32(7)},
}


def state(step):
    return State(jnp.int32(step), {"a": jnp.full(3, step, jnp.float32)}, ({"a": jnp.ones(3)},))


def like():
    return jax.eval_shape(lambda: state(0))


def save(workdir, *steps, frozen=FROZEN):
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save_frozen(frozen)
        for step in steps:
            checkpoints.save(state(step), batch_size=4)
        checkpoints.wait()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("saved")
    save(workdir, 3, 6)
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(saved, tmp_path / "run")


def same(a, b):
    return jax.tree.all(
        jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), a, b)
    )


def test_they_come_back_bitwise_with_and_without_knowing_their_shapes(saved):
    with Checkpoints(saved) as checkpoints:
        assert same(checkpoints.restore_frozen(), FROZEN)
        assert same(checkpoints.restore_frozen(jax.eval_shape(lambda: FROZEN)), FROZEN)
        with pytest.raises(FrozenError, match=r"checkpoints/frozen cannot be used: .*kernel"):
            checkpoints.restore_frozen({"codec": FROZEN["text"], "text": FROZEN["text"]})


def test_they_are_written_once(workdir):
    folder = workdir / "checkpoints" / "frozen"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    save(workdir, 9)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with Checkpoints(workdir) as checkpoints:
        step, found = checkpoints.restore_newest(like(), report=pytest.fail)
    assert step == 9
    assert same(found, state(9))


def test_without_any_nothing_is_written(tmp_path):
    save(tmp_path, 3, frozen={})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_frozen() is None
        assert checkpoints.restore_frozen({}) == {}
        assert checkpoints.restore_newest(like(), report=pytest.fail)[0] == 3


def damaged(folder):
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    path = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replaced(folder):
    """Puts another run's in their place, whole in themselves."""
    shutil.rmtree(folder)
    other = folder.parent.parent / "other"
    save(other, frozen={**FROZEN, "text": {"bias": np.zeros(5, jnp.bfloat16)}})
    shutil.copytree(other / "checkpoints" / "frozen", folder)


READS = {
    "restore": lambda c: c.restore(6, like()),
    "restore_newest": lambda c: c.restore_newest(like(), report=pytest.fail),
    "restore_ema": lambda c: c.restore_ema(6, like().ema),
    "restore_newest_ema": lambda c: c.restore_newest_ema(like().ema, report=pytest.fail),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "are missing; the checkpoint .*/6 cannot"),
        (damaged, "cannot be used: .* has changed"),
        (replaced, "are not those that the checkpoint .*/6 was made with"),
    ],
    ids=["missing", "damaged", "replaced"],
)
def test_no_checkpoint_is_read_without_its_own(workdir, read, harm, message):
    harm(workdir / "checkpoints" / "frozen")
    before = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    with (
        Checkpoints(workdir) as checkpoints,
        pytest.raises(FrozenError, match=f"checkpoints/frozen {message}") as refused,
    ):
        READS[read](checkpoints)
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**FROZEN, "text": {**FROZEN["text"], "count": np.int32(8)}}, "text/count has other"),
        ({"codec": FROZEN["codec"]}, "text/bias is not given; text/count is not given"),
        ({**FROZEN, "more": np.zeros(2)}, "more is not there"),
        ({}, "kernel is not given"),
    ],
)
def test_going_on_with_others_names_what_differs(workdir, given, message):
    with Checkpoints(workdir) as checkpoints, pytest.raises(FrozenError, match=message):
        checkpoints.save_frozen(given)


def test_where_they_are_gone_the_same_ones_are_written_again_and_others_refused(workdir):
    shutil.rmtree(workdir / "checkpoints" / "frozen")
    with Checkpoints(workdir) as checkpoints:
        with pytest.raises(FrozenError, match="missing, and those given are not"):
            checkpoints.save_frozen({"codec": FROZEN["codec"]})
        checkpoints.save_frozen(FROZEN)
        assert checkpoints.restore_newest(like(), report=pytest.fail)[0] == 6


def test_a_half_written_folder_is_made_anew(tmp_path):
    for name in ("frozen.saving", "frozen.saving.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    save(tmp_path, 3)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "frozen"]


@pytest.mark.parametrize("given", [FROZEN, {"codec": FROZEN["codec"]}, {}])
def test_those_of_a_run_that_saved_no_checkpoint_are_replaced(tmp_path, given):
    save(tmp_path, frozen={"codec": FROZEN["text"]})
    save(tmp_path, 3, frozen=given)
    with Checkpoints(tmp_path) as checkpoints:
        assert same(checkpoints.restore_frozen() or {}, given)
        assert checkpoints.restore_newest(like(), report=pytest.fail)[0] == 3
