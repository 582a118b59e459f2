"""A disk without room for another folder: the save fails in one line, and the process ends."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from launch import PYTHONPATH


@pytest.mark.parametrize("made", [0, 1, 2, 3])
@pytest.mark.slow
def test_where_no_folder_can_be_made_the_process_ends(tmp_path, made):
    process = subprocess.run(
        [sys.executable, __file__, str(tmp_path), str(made)],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    place = tmp_path / "checkpoints"
    assert process.returncode == 0, process.stderr
    assert process.stdout == (
        f"the checkpoint {place}/3 could not be written: No space left on device; "
        "none is saved yet\n"
    )


def script(workdir: Path, left: int) -> None:
    """Saves where the system makes so many more folders."""
    from runtime_state import State

    from cfg_jax.runtime.checkpoints import CheckpointError, Checkpoints

    make = os.mkdir

    def full(path, *args, **kwargs):
        nonlocal left
        if "saving" in str(path):
            left -= 1
            if left < 0:
                raise OSError(28, "No space left on device")
        make(path, *args, **kwargs)

    with Checkpoints(workdir) as checkpoints:
        os.mkdir = full
        ones = {"kernel": jnp.ones(3)}
        try:
            checkpoints.save(State(jnp.int32(3), ones, (ones,)), batch_size=4)
            checkpoints.wait()
        except CheckpointError as error:
            print(error)


if __name__ == "__main__":
    script(Path(sys.argv[1]), int(sys.argv[2]))
