"""Checkpoints: bitwise there and back, or refused by name and an older one used; never in between.

As a script, the processes that the tests below kill, starve of disk and read from meanwhile.
"""

import asyncio
import functools
import gc
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from launch import PYTHONPATH, xla_flags

from cfg_jax.diffusion.precision import enable_x64
from cfg_jax.runtime import manifest
from cfg_jax.runtime.checkpoints import CheckpointError, Checkpoints


class State(NamedTuple):
    """A training state such as a loop carries."""

    step: Any
    skipped: Any
    params: Any
    ema: tuple[Any, ...]
    opt_state: Any


def made(step: int, size: int = 24) -> State:
    """The state of a step; every value differs from every other step's."""
    rng = np.random.default_rng(step)

    def params(dtype=np.float32):
        kernel = rng.normal(size=(size, size)).astype(dtype)
        return {"params": {"Conv_0": {"kernel": kernel, "bias": rng.normal(size=8).astype(dtype)}}}

    count = np.int32(step)
    moments = ({"count": count, "mu": params(), "nu": params(jnp.bfloat16)}, ())
    state = State(
        step=count, skipped=count, params=params(), ema=(params(), params()), opt_state=moments
    )
    return jax.tree.map(jnp.asarray, state)


def like(size: int = 24) -> State:
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, made(0, size)))


def same(a, b) -> bool:
    """Whether two trees hold the same bits."""
    equal = jax.tree.map(lambda x, y: x.dtype == y.dtype and bytes_of(x) == bytes_of(y), a, b)
    return jax.tree.all(equal)


def bytes_of(array) -> bytes:
    return np.asarray(array).tobytes()


def save(workdir: Path, *steps: int, size: int = 24, **options) -> None:
    with Checkpoints(workdir, **options) as checkpoints:
        for step in steps:
            checkpoints.save(made(step, size), batch_size=4)
        checkpoints.wait()


def newest(workdir: Path, size: int = 24) -> tuple[tuple[int, State] | None, list[str]]:
    """What training starts from, and what it says of the rest."""
    lines: list[str] = []
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore_newest(like(size), report=lines.append), lines


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def in_checkpoints(workdir: Path) -> list[str]:
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A work directory with the checkpoints of steps 3 and 6."""
    workdir = tmp_path_factory.mktemp("saved")
    save(workdir, 3, 6)
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(saved, tmp_path / "run")


# What is kept.


def test_a_state_comes_back_bitwise(tmp_path):
    state = made(7)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(state, batch_size=4)
        checkpoints.wait()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 7
        assert checkpoints.path(7).is_dir()
        found = checkpoints.restore(7, like())
        assert jax.tree.structure(found) == jax.tree.structure(state)
        assert same(found, state)
        assert same(checkpoints.restore_ema(7, like().ema), state.ema)
    position = json.loads((tmp_path / "checkpoints" / "7" / "position" / "metadata").read_text())
    assert position == {"step": 7, "examples": 28}


def test_one_of_several_averages_can_be_read_alone(saved):
    with Checkpoints(saved) as checkpoints:
        second = checkpoints.restore_ema(6, {"1": like().ema[1]})["1"]
        assert same(second, made(6).ema[1])
        with pytest.raises(ValueError, match=r"2/params/Conv_0/bias, float32\[8\], is not there"):
            checkpoints.restore_ema(6, {"2": like().ema[1]})
        part = {"1": {"params": {"Conv_0": {"bias": like().ema[1]["params"]["Conv_0"]["bias"]}}}}
        with pytest.raises(ValueError, match=r"kernel, float32\[24,24\], is not wanted"):
            checkpoints.restore_ema(6, part)


def test_a_state_may_be_donated_as_soon_as_it_is_handed_over(tmp_path):
    change = jax.jit(lambda tree: jax.tree.map(lambda a: a + 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        state = made(5, 512)
        checkpoints.save(state, batch_size=4)
        jax.block_until_ready(change(state))
        jax.tree.map(lambda a: a.delete(), state)  # where donating it was not possible
        checkpoints.wait()
        assert same(checkpoints.restore(5, like(512)), made(5, 512))


def test_a_step_is_saved_once(workdir):
    before = listing(workdir)
    save(workdir, 6)
    assert listing(workdir) == before


def test_the_newest_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, keep=2)
    assert in_checkpoints(tmp_path) == ["2", "3"]


def test_multiples_are_kept_for_good(tmp_path):
    save(tmp_path, *range(2, 17, 2), keep=2, keep_every=6)
    assert in_checkpoints(tmp_path) == ["12", "14", "16", "6"]


def test_what_to_keep_is_checked(tmp_path):
    for options in ({"keep": 0}, {"keep_every": -1}):
        with pytest.raises(ValueError, match="keep must be at least 1 and keep_every at least 0"):
            Checkpoints(tmp_path, **options)


def mesh_of(count: int):
    shape = (max(count // 2, 1), min(count, 2))
    return jax.make_mesh(
        shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:count]
    )


def laid_out(tree, count: int, spec: PartitionSpec):
    """Shapes of a state over the first devices, its matrices split."""
    mesh = mesh_of(count)

    def place(leaf):
        split = spec if leaf.ndim == 2 else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, split))

    return jax.tree.map(place, tree)


@pytest.fixture(scope="module")
def saved_by_eight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("eight")
    places = laid_out(like(), 8, PartitionSpec("fsdp"))
    state = jax.tree.map(lambda a, place: jax.device_put(a, place.sharding), made(4), places)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(state, batch_size=4)
    return workdir


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("spec", [(), (None, "fsdp"), ("data", "fsdp")])
def test_eight_devices_checkpoint_comes_back_on_fewer(saved_by_eight, count, spec):
    places = laid_out(like(), count, PartitionSpec(*spec))
    with Checkpoints(saved_by_eight) as checkpoints:
        found = checkpoints.restore(4, places)
        assert same(found, made(4))
        assert all(
            a.sharding.is_equivalent_to(place.sharding, a.ndim)
            for a, place in zip(jax.tree.leaves(found), jax.tree.leaves(places), strict=True)
        )


def test_sums_are_the_same_whatever_devices_saved(saved_by_eight, tmp_path):
    save(tmp_path, 4)
    held = [manifest.read(w / "checkpoints" / "4", 4).arrays for w in (saved_by_eight, tmp_path)]
    assert held[0] == held[1]


# What is damaged.


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 << 4
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [flip, halve, empty, Path.unlink]


def files_of(workdir: Path, step: int) -> list[Path]:
    found = [p for p in (workdir / "checkpoints" / str(step)).rglob("*") if p.is_file()]
    return sorted(path for path in found if path.stat().st_size)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
@pytest.mark.slow
def test_a_checkpoint_with_any_file_damaged_is_set_aside(saved, tmp_path, damage):
    for i, original in enumerate(files_of(saved, 6)):
        workdir = shutil.copytree(saved, tmp_path / str(i))
        name = original.relative_to(saved / "checkpoints" / "6")
        damage(workdir / "checkpoints" / "6" / name)
        after = listing(workdir / "checkpoints" / "6")
        (step, state), (line,) = newest(workdir)
        assert step == 3
        assert same(state, made(3))
        assert "checkpoints/6 cannot be used" in line
        assert str(name) in line
        assert line.endswith(f"moved to {workdir}/checkpoints/quarantine/6")
        assert in_checkpoints(workdir) == ["3", "quarantine"]
        assert listing(workdir / "checkpoints" / "quarantine" / "6") == after
        shutil.rmtree(workdir)


@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=lambda f: f.__name__)
def test_a_reader_uses_what_is_good_and_moves_nothing(saved, tmp_path, damage):
    for i, original in enumerate(files_of(saved, 6)):
        workdir = shutil.copytree(saved, tmp_path / str(i))
        name = original.relative_to(saved / "checkpoints" / "6")
        damage(workdir / "checkpoints" / "6" / name)
        before, lines = listing(workdir), []
        with Checkpoints(workdir) as checkpoints:
            step, ema = checkpoints.restore_newest_ema(like().ema, report=lines.append)
            if name.parts[0] in ("state", "position"):  # what the averages do not need
                assert (step, lines) == (6, [])
            else:
                assert step == 3
                assert len(lines) == 1
                assert str(name) in lines[0]
                with pytest.raises(ValueError, match="checkpoints/6 cannot be used"):
                    checkpoints.restore_ema(6, like().ema)
        assert same(ema, made(step).ema)
        assert listing(workdir) == before
        shutil.rmtree(workdir)


def test_a_bit_that_flips_before_the_files_are_summed_is_found_in_the_arrays(saved, tmp_path):
    saved_files = [path for path in files_of(saved, 6) if path.name != manifest.NAME]
    path = max(saved_files, key=lambda p: p.stat().st_size)
    name = path.relative_to(saved)
    size, found = path.stat().st_size, []
    for place in range(size // 20, size, size // 10):
        workdir = shutil.copytree(saved, tmp_path / str(place))
        content = bytearray((workdir / name).read_bytes())
        content[place] ^= 1
        (workdir / name).write_bytes(content)
        checkpoint = workdir / "checkpoints" / "6"
        arrays = manifest.read(checkpoint, 6).arrays
        (checkpoint / "manifest.json").unlink()
        manifest.write(checkpoint, 6, arrays)
        (step, state), lines = newest(workdir)
        assert step == 6 if not lines else step == 3
        assert same(state, made(step))
        found += lines
    assert any("came back with other values than were saved" in line for line in found)


def corrupt_bias(checkpoints: Checkpoints) -> None:
    """Has a sign change between the files and the arrays."""
    read, name = checkpoints._store._orbax.restore, "params/params/Conv_0/bias"

    def restore(*args, **kwargs):
        items = read(*args, **kwargs)
        bias = items["state"][name]
        wrong = np.asarray(bias.addressable_data(0)).copy()
        wrong[3] *= -1
        items["state"][name] = jax.make_array_from_callback(
            bias.shape, bias.sharding, lambda index: wrong[index]
        )
        return items

    checkpoints._store._orbax.restore = restore


def test_a_weight_that_orbax_reads_wrong_is_named(workdir):
    with Checkpoints(workdir) as checkpoints:
        corrupt_bias(checkpoints)
        with pytest.raises(ValueError, match="params/params/Conv_0/bias of state came back"):
            checkpoints.restore(6, like())


def test_ctrl_c_while_one_is_read_is_no_damage(workdir):
    """Orbax makes an error like any other of it, where it sees it."""
    with Checkpoints(workdir) as checkpoints:
        read, restoring = checkpoints._store._orbax.restore, threading.Event()

        def restore(*args, **kwargs):
            restoring.set()
            try:
                time.sleep(0.5)
            except KeyboardInterrupt:
                raise Exception("no array could be read") from None
            return read(*args, **kwargs)

        def interrupt():
            restoring.wait()
            os.kill(os.getpid(), signal.SIGINT)

        checkpoints._store._orbax.restore = restore
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            checkpoints.restore_newest(like(), report=pytest.fail)
    assert in_checkpoints(workdir) == ["3", "6"]


def test_what_is_wide_is_read_wide(tmp_path):
    with enable_x64(True), Checkpoints(tmp_path) as checkpoints:
        state = made(3)._replace(params=jnp.array([1 / 3, 2 / 3], jnp.float64))
        checkpoints.save(state, batch_size=4)
        assert same(checkpoints.restore(3, state), state)


def test_another_models_checkpoint_is_set_aside(workdir):
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(made(9, size=16), batch_size=4)
    (step, state), (line,) = newest(workdir)
    assert step == 3 or step == 6
    assert same(state, made(6))
    assert "kernel is float32[16,16] where float32[24,24] is wanted" in line
    assert in_checkpoints(workdir) == ["3", "6", "quarantine"]


def test_a_copy_under_another_steps_name_is_set_aside(workdir):
    shutil.copytree(workdir / "checkpoints" / "3", workdir / "checkpoints" / "9")
    (step, _), (line,) = newest(workdir)
    assert step == 6
    assert "checkpoints/9 cannot be used: it holds step 3" in line


def test_quarantine_has_room_for_the_same_step_again(workdir):
    for expected in (["6"], ["6", "6-2"], ["6", "6-2", "6-3"]):
        empty(workdir / "checkpoints" / "6" / "manifest.json")
        (step, _), _ = newest(workdir)
        assert step == 3
        assert (
            sorted(p.name for p in (workdir / "checkpoints" / "quarantine").iterdir()) == expected
        )
        save(workdir, 6)


def test_with_none_left_all_are_named_and_stay(workdir):
    for step in (3, 6):
        flip(workdir / "checkpoints" / str(step) / "_CHECKPOINT_METADATA")
    before = listing(workdir)
    for _ in range(2):  # a second start must not begin anew in silence
        with pytest.raises(ValueError, match=r"no checkpoint is good: .*/6 cannot.*; .*/3 cannot"):
            newest(workdir)
        with (
            Checkpoints(workdir) as reader,
            pytest.raises(ValueError, match="no checkpoint is good"),
        ):
            reader.restore_newest_ema(like().ema, report=[].append)
    assert listing(workdir) == before


def test_a_step_that_is_not_there_is_named(saved):
    with Checkpoints(saved) as checkpoints:
        with pytest.raises(ValueError, match="checkpoints/5 cannot be used: it is not there"):
            checkpoints.restore(5, like())
        with pytest.raises(ValueError, match="checkpoints/5 cannot be used: it is not there"):
            checkpoints.restore_ema(5, like().ema)


def test_without_any_there_is_nothing_to_start_from(tmp_path):
    assert newest(tmp_path) == (None, [])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_newest_ema(like().ema, report=[].append) is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_named_otherwise_is_left_alone(workdir):
    for name in ("007", "notes", "tmp.9"):
        (workdir / "checkpoints" / name).mkdir()
    (workdir / "checkpoints" / "9").symlink_to("nowhere")
    before = in_checkpoints(workdir)
    (step, _), lines = newest(workdir)
    assert (step, lines) == (6, [])
    assert in_checkpoints(workdir) == before


def test_the_owners_own_copies_are_left_alone(workdir):
    copies = ["5.old", "10.bak", "6.saving-mine", "7.old.saving"]
    for name in copies:
        shutil.copytree(workdir / "checkpoints" / "6", workdir / "checkpoints" / name)
    before = {name: listing(workdir / "checkpoints" / name) for name in copies}
    (step, _), lines = newest(workdir)
    assert (step, lines) == (6, [])
    save(workdir, 9, 12, keep=1)
    assert in_checkpoints(workdir) == sorted(["12", *copies])
    assert {name: listing(workdir / "checkpoints" / name) for name in copies} == before


def test_what_was_half_written_is_no_checkpoint_and_is_set_aside(workdir):
    halves = ["7.saving", "8.saving.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp"]
    for name in halves:
        shutil.copytree(workdir / "checkpoints" / "6", workdir / "checkpoints" / name)
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.latest() == 6
        step, _ = checkpoints.restore_newest_ema(like().ema, report=pytest.fail)
        assert step == 6
    assert set(halves) < set(in_checkpoints(workdir))
    (step, _), lines = newest(workdir)
    assert step == 6
    assert [line.split("checkpoints/")[1].split(" was half written")[0] for line in lines] == halves
    assert in_checkpoints(workdir) == ["3", "6", "quarantine"]


# What cannot be written.


def test_a_manifest_that_cannot_be_written_stops_with_the_last_good_one_named(workdir, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest.os, "fsync", full)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(made(9), batch_size=4)
        with pytest.raises(CheckpointError, match=r"/9 could not .*No space left.*checkpoints/6$"):
            checkpoints.wait()
        checkpoints.wait()  # told once
        checkpoints.save(made(9), batch_size=4)
        with pytest.raises(CheckpointError):
            checkpoints.save(made(10), batch_size=4)
    assert in_checkpoints(workdir) == ["3", "6"]
    (step, state), lines = newest(workdir)
    assert (step, lines) == (6, [])
    assert same(state, made(6))


def test_closing_tells_of_a_save_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest.os, "fsync", lambda _: 1 / 0)
    with (
        pytest.raises(CheckpointError, match="none is saved yet"),
        Checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.save(made(9), batch_size=4)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        (tmp_path / "checkpoints").write_text("a file")
        with pytest.raises(CheckpointError, match="checkpoints/1 could"):
            checkpoints.save(made(1), batch_size=4)


def test_a_file_in_their_place_is_told_before_anything_is_made(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(ValueError, match="checkpoints is no folder, and stands where one should"):
        Checkpoints(tmp_path)


def begin(what: str, workdir: Path, **environment: str) -> subprocess.Popen:
    """Starts this file as a script."""
    # Kernels that an earlier start compiled need not be compiled again.
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONPATH": PYTHONPATH}
    return subprocess.Popen(
        [sys.executable, __file__, what, str(workdir)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen) -> list:
    """What a script printed, a JSON value a line; Gloo's lines, of several threads, are not."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    own = re.compile(r'[{"]|-?[0-9]+$')
    return [json.loads(line) for line in out.splitlines() if own.match(line)]


def run(what: str, workdir: Path) -> list:
    return ended(begin(what, workdir))


def test_a_full_disk_stops_with_the_last_good_one_named(tmp_path):
    save(tmp_path, 3, size=256)
    out, err = begin("starve", tmp_path).communicate(timeout=300)
    assert "Traceback" not in err
    (told,) = (json.loads(line) for line in out.splitlines())
    place = tmp_path / "checkpoints"
    assert told == (
        f"the checkpoint {place}/9 could not be written: File too large; "
        f"the last good one is {place}/3"
    )
    (step, state), _ = newest(tmp_path, 256)
    assert step == 3
    assert same(state, made(3, 256))


@pytest.mark.parametrize(("module", "told"), [("orbax.writes", False), ("another.writes", True)])
def test_what_fails_after_the_first_write_that_failed_is_nobodys_traceback(caplog, module, told):
    """Orbax stops at the first error; the others' are never fetched, whichever ends first."""
    with Checkpoints(Path("unused")):
        made_there = {"__name__": module}
    exec("async def write(): raise ValueError('File too large')", made_there)

    async def save_two():
        asyncio.gather(made_there["write"](), made_there["write"]())
        await asyncio.sleep(0.01)

    asyncio.run(save_two())
    gc.collect()
    assert ("File too large" in caplog.text) == told


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_from_a_good_checkpoint(tmp_path):
    starts = run("kill", tmp_path)
    assert len(starts) == 21
    assert [s["step"] for s in starts] == sorted(s["step"] for s in starts)
    assert starts[-1]["step"] >= 20
    assert any(s["set_aside"] for s in starts), "no kill met a save"
    assert not any(s["wrong"] for s in starts)


@pytest.mark.parametrize("moment", ["manifest", "name", "removal"])
@pytest.mark.slow
def test_a_run_killed_at_the_worst_moments_goes_on(tmp_path, moment):
    """Before the manifest takes its name; before the checkpoint does; amid removing an old one."""
    save(tmp_path, 3, keep=1)
    assert run(f"die-{moment}", tmp_path) == [-signal.SIGKILL]
    completed = moment == "removal"
    assert in_checkpoints(tmp_path) == ([".removed", "6"] if completed else ["3", "6.saving"])
    (step, state), lines = newest(tmp_path)
    assert step == (6 if completed else 3)
    assert same(state, made(step))
    assert len(lines) == (0 if completed else 1)
    save(tmp_path, 9, keep=1)
    assert in_checkpoints(tmp_path) == ["9"] + ([] if completed else ["quarantine"])


def test_a_run_can_be_read_while_it_trains(tmp_path):
    (read,) = run("read", tmp_path)
    assert read["wrong"] == 0
    assert len(set(read["steps"])) > 3
    assert read["steps"] == sorted(read["steps"])


def test_two_processes_save_and_refuse_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [begin(f"pair-{port}-{i}", tmp_path, XLA_FLAGS=xla_flags(2)) for i in range(2)]
    told = [ended(process) for process in both]
    for one in told:
        assert one[0] == {"step": 3, "wrong": False}
        assert "bias of state came back with other values" in one[1]
    assert told[1][1].endswith("were saved")  # found in process 1 alone
    assert told[0][1].endswith("were saved (in process 1)")
    assert in_checkpoints(tmp_path) == ["3", "quarantine"]
    with Checkpoints(tmp_path) as checkpoints:
        assert same(checkpoints.restore(3, like()), made(3))
    save(tmp_path / "alone", 3)
    held = [
        manifest.read(w / "checkpoints" / "3", 3).arrays for w in (tmp_path, tmp_path / "alone")
    ]
    assert held[0] == held[1]


# The script: JAX starts in forked children alone, which is what makes so many starts quick.


def forked(work) -> int:
    """Starts a child; its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    return child


def train(workdir: Path, size: int, keep: int, ready: int) -> None:
    """Starts from the newest checkpoint, saves one, tells of it, and saves on while it lives."""
    lines: list[str] = []
    with Checkpoints(workdir, keep=keep) as checkpoints:
        found = checkpoints.restore_newest(like(size), report=lines.append)
        start, state = found or (0, made(0, size))
        told = {"step": start, "wrong": not same(state, made(start, size)), "set_aside": len(lines)}
        for step in range(start + 1, start + 1000):
            began = time.monotonic()
            checkpoints.save(made(step, size), batch_size=4)
            if ready:
                checkpoints.wait()
                told["seconds"] = time.monotonic() - began
                os.write(ready, json.dumps(told).encode() + b"\n")
                ready = 0


def script_kill(workdir: Path) -> None:
    draw = random.Random(0)
    for _ in range(21):
        told, ready = os.pipe()
        child = forked(functools.partial(train, workdir, 256, 2, ready))
        os.close(ready)
        with os.fdopen(told) as pipe:
            line = pipe.readline()
        print(line, end="")
        time.sleep(draw.uniform(0.0, json.loads(line)["seconds"]))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def script_die(workdir: Path, moment: str) -> None:
    def dies(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    def work():
        where, name = {
            "manifest": (os, "replace"),
            "name": (Path, "rename"),
            "removal": (shutil, "rmtree"),
        }[moment]
        with Checkpoints(workdir, keep=1) as checkpoints:
            write = manifest.write

            def write_and_arm(*args, **given):
                if moment == "manifest":
                    setattr(where, name, dies)
                write(*args, **given)
                setattr(where, name, dies)

            manifest.write = write_and_arm
            checkpoints.save(made(6), batch_size=4)
            checkpoints.wait()

    _, status = os.waitpid(forked(work), 0)
    print(-os.WTERMSIG(status))


def script_starve(workdir: Path) -> None:
    with Checkpoints(workdir) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        checkpoints.save(made(9, 256), batch_size=4)
        try:
            checkpoints.wait()
        except CheckpointError as error:
            print(json.dumps(str(error)))


def script_read(workdir: Path) -> None:
    told, ready = os.pipe()
    trainer = forked(lambda: train(workdir, 64, 1, ready))
    os.read(told, 1)

    def read():
        steps, wrong, until = [], 0, time.monotonic() + 60
        while len(set(steps)) < 8 and time.monotonic() < until:
            with Checkpoints(workdir) as checkpoints:
                found = checkpoints.restore_newest_ema(like(64).ema, report=print)
            if found:
                steps.append(found[0])
                wrong += not same(found[1], made(found[0], 64).ema)
        print(json.dumps({"steps": steps, "wrong": wrong}))

    _, status = os.waitpid(forked(read), 0)
    os.kill(trainer, signal.SIGKILL)
    os.waitpid(trainer, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


def script_pair(workdir: Path, port: str, process: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process))
    places = laid_out(like(), 4, PartitionSpec("fsdp"))

    def distributed(step):
        def put(array, place):
            return jax.make_array_from_callback(
                array.shape, place.sharding, lambda index: np.asarray(array)[index]
            )

        return jax.tree.map(put, made(step), places)

    def same_shards(a, b):
        return all(
            bytes_of(shard.data) == bytes_of(np.asarray(y)[shard.index])
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
            for shard in x.addressable_shards
        )

    with Checkpoints(workdir) as checkpoints:
        for step in (3, 6):
            checkpoints.save(distributed(step), batch_size=4)
        checkpoints.wait()
        if process == "0":
            flip(max(files_of(workdir, 6), key=lambda p: p.stat().st_size))
        multihost_utils.sync_global_devices("damaged")
        step, state = checkpoints.restore_newest(places, report=lambda _: None)
        print(json.dumps({"step": step, "wrong": not same_shards(state, made(step))}))
        if process == "1":
            corrupt_bias(checkpoints)
        try:
            checkpoints.restore(3, places)
        except ValueError as error:
            print(json.dumps(str(error)))


if __name__ == "__main__":
    what, *arguments = sys.argv[1].split("-")
    globals()[f"script_{what}"](Path(sys.argv[2]), *arguments)
