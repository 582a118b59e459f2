"""The command `plan`: the whole of it on CPU devices that pass for chips, and what it refuses."""

import shlex

import jax
import pytest
from recipes import write

from cfg_jax.planning import topology
from cfg_jax.planning.chips import CHIPS
from cfg_jax.planning.topology import Topology

NOTHING = ("--config.data=Catalogue", "--config.data.name=nothing")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write(tmp_path)


@pytest.fixture
def chips(monkeypatch):
    """Every slice is eight CPU devices."""

    def load(name):
        return Topology(name, topology.parse(name)[0], jax.devices())

    monkeypatch.setattr(topology, "load", load)


@pytest.mark.slow
def test_a_plan_is_printed_and_written(command, chips, config, tmp_path):
    out = tmp_path / "plans" / "tiny.md"
    argv = ["plan", "--config", config, "--topology", "v6e:2x4", "--out", out]
    code, printed, err = command(*argv)
    assert code == 0, err
    assert "# tiny on v6e:2x4" in printed
    assert "## Training: it fits" in printed
    assert "## Sampling: it fits" in printed
    assert f"{CHIPS['v6e'].flops / 1e12:g} TFLOP/s" in printed
    assert "8×8×1, 10 classes" in printed
    assert "compiling the training step at batch 16 for v6e:2x4" in err
    written = out.read_text()
    assert written.startswith(printed.removesuffix("\n"))
    assert shlex.split(written.splitlines()[-1])[3:] == [str(a) for a in argv]

    # Compiled once; and the data need not be looked at.
    again = [
        "--config.data=Catalogue",
        "--config.data.name=nothing",
        "--shape",
        "8,8,1",
        "--classes",
        "10",
        "--samples",
        "0",
    ]
    code, printed, err = command(*argv[:-2], *again)
    assert (code, err) == (0, "")
    assert "## Sampling" not in printed
    assert "as data 8 × fsdp 1" in printed
    code, printed, err = command(*argv[:-2], *again, "--fsdp", 4)
    assert code == 0, err
    assert "as data 2 × fsdp 4" in printed


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--topology", "v9:4x4"], "with a chip of v4, v5e, v5p, v6e, such as"),
        (["--topology", "v5e:16"], "a slice of v5e is v5e:AxB"),
        ([], "give --topology"),
        (
            ["--topology", "v5e:2x4", "--shape", "64"],
            "--shape takes one example's sides and channels",
        ),
        (["--topology", "v5e:2x4", "--classes", "-1"], "--classes must be at least 0"),
        (["--topology", "v5e:2x4", "--samples", "-1"], "--samples must be at least 0"),
        (["--topology", "v5e:2x4", "--fsdp", "3"], "mesh.fsdp"),
        (
            ["--topology", "v5e:2x4", "--config.train.batch_size=12"],
            "train.batch_size must be a multiple of the number of devices, 8; got 12",
        ),
        (
            ["--topology", "v5e:2x4", "--config.mesh.fsdp=3"],
            "mesh.fsdp must divide the number of devices, 8; got 3",
        ),
        (["--topology", "v5e:2x4", *NOTHING], "names no dataset"),
        (["--topology", "v5e:2x4", "--config.network.patch=16"], "got 8×8"),
    ],
)
def test_mistakes_are_refused(refused, chips, config, extra, message):
    assert message in refused("plan", "--config", config, *extra)


def test_without_the_compiler_it_is_said_how_to_get_it(refused, config, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = refused("plan", "--config", config, "--topology", "v5e:4x4")
    assert "pip install 'cfg-jax[tpu-plan]'" in line
