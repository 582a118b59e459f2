"""The scripts for TPU pods and Slurm: what they print in a dry run is what they run, and it parses.

`gcloud`, `srun` and the like are stand-ins that write down how they were called.
"""

import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from cfg_jax import recipe
from cfg_jax.cli import flagging, models
from cfg_jax.data import Digits

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
CREATE, INSTALL, WORKER, RUN = (
    EXPERIMENTS / "tpu" / f"{name}.sh" for name in ("create", "install", "worker", "run")
)
JOB = EXPERIMENTS / "slurm" / "run.sh"
STAGES = ("prepare", "train", "sample", "evaluate")
SETTINGS = {
    "NAME": "pod",
    "ZONE": "us-east5-b",
    "TYPE": "v6e-64",
    "NFS": "10.0.0.2:/share",
    "RECIPE": "imagenet64",
    "WORKDIR": "/shared/runs/it",
    "SLURM_GPUS_ON_NODE": "8",
}
CALLS = [
    *[(script,) for script in (CREATE, INSTALL, WORKER)],
    *[(script, stage) for script in (RUN, JOB) for stage in STAGES],
]


@pytest.fixture
def tools(tmp_path):
    """Stand-ins that write their arguments to `called`, and the PATH that finds them first."""
    for name in (
        "gcloud",
        "git",
        "srun",
        "sudo",
        "mkdir",
        "mountpoint",
        "sh",
        "home/.local/bin/uv",
    ):
        stand_in = tmp_path / "bin" / name
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text(
            f'#!/bin/bash\nprintf "%s\\0" {name} "$@" >> {tmp_path}/called\n'
            f'printf "\\n" >> {tmp_path}/called\n'
            "[[ ${0##*/} != mountpoint ]] || exit 1\n"
            '[[ $* != *"describe"* ]] || echo ACTIVE\n'
        )
        stand_in.chmod(0o755)
    return tmp_path


def called(tools):
    """The commands that the stand-ins were called with."""
    if not (tools / "called").exists():
        return []
    lines = (tools / "called").read_text().split("\0\n")[:-1]
    calls = [line.split("\0") for line in lines]
    return [call for call in calls if call[0] != "mountpoint"]


def execute(call, tools, **settings):
    """Runs a script with its arguments and settings, from elsewhere."""
    script, *arguments = call
    environment = {
        "PATH": f"{tools / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tools / "bin" / "home"),
        **{name: value for name, value in settings.items() if value is not None},
    }
    return subprocess.run(
        [script, *arguments], env=environment, cwd=tools, capture_output=True, text=True, timeout=60
    )


def dry(call, tools, **changes):
    """The commands a script prints under DRY_RUN=1, split as a shell would."""
    done = execute(call, tools, **SETTINGS | changes, DRY_RUN="1")
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def remote(command):
    """What a gcloud command runs on the workers; None if nothing."""
    found = [argument for argument in command if argument.startswith("--command=")]
    return found[0].removeprefix("--command=") if found else None


def arguments(commands):
    """What `python -m cfg_jax` is given in the only one of the commands that calls it."""
    texts = [remote(command) or shlex.join(command) for command in commands]
    (found,) = [text.split("python -m cfg_jax ")[1] for text in texts if "-m cfg_jax" in text]
    return shlex.split(found.split(" >> ")[0])


class ParsedError(Exception):
    """Carries a command's flags out of it, before it acts."""


@pytest.fixture
def parse(monkeypatch):
    """A function from arguments to the flags that their command makes of them."""
    real = flagging.parse

    def stop(*given, **named):
        raise ParsedError(real(*given, **named))

    def described(path):
        """What lies in the work directory, which is not there: its labels make a flag."""
        return recipe.Description(recipe.default(), Digits().peek())

    def parsed(argv):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(flagging, "parse", stop)
        monkeypatch.setattr(models, "describe", described)
        with pytest.raises(ParsedError) as caught:
            importlib.import_module(f"cfg_jax.cli.{argv[0]}").run(argv[1:])
        return caught.value.args[0]

    return parsed


def named(call):
    return "-".join([call[0].parent.name, call[0].stem, *call[1:]])


def test_every_script_is_tested():
    scripts = set(EXPERIMENTS.glob("**/*.sh")) - {EXPERIMENTS / "common.sh"}
    assert scripts == {call[0] for call in CALLS}
    for script in scripts:
        assert os.access(script, os.X_OK)
        assert "\nset -euo pipefail\n" in script.read_text()


@pytest.mark.parametrize("call", CALLS, ids=named)
def test_a_dry_run_prints_what_a_run_runs(call, tools):
    printed = dry(call, tools)
    assert called(tools) == []
    assert printed
    done = execute(call, tools, **SETTINGS)
    assert done.returncode == 0, done.stderr

    def plain(command):
        """Without the name of the temporary folder."""
        name, *rest = [re.sub(r"/tmp/[\w./]*(?=/cfg_jax)", "/tmp/…", part) for part in command]
        return [name.removeprefix(f"{tools}/bin/"), *rest]

    assert [plain(command) for command in called(tools)] == [plain(c) for c in printed]


@pytest.mark.parametrize("name", ["imagenet64", "imagenet128"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("script", [RUN, JOB], ids=["tpu", "slurm"])
def test_commands_parse(script, stage, name, tools, parse):
    argv = arguments(dry((script, stage), tools, RECIPE=name, W="0.3"))
    assert argv[0] == stage
    values = parse(argv)
    if stage in ("prepare", "train"):
        config = flagging.config(values)
        recipe.check(config)
        assert "imagenet" in config.data.name
    if stage != "prepare":
        assert values["workdir"] == "/shared/runs/it"
    assert values.get("distributed", False) == (stage in ("train", "sample"))
    if stage == "sample":
        assert (values["per-label"], values["w"]) == (50, 0.3)
        assert values["out"] == "/shared/runs/it/samples_w0.3.npz"
    if stage == "evaluate":
        assert (values["samples"], values["w"]) == (50_000, "0.3")


def test_the_recipe_says_w_where_nobody_does(tools, parse):
    values = parse(arguments(dry((JOB, "sample"), tools)))
    assert (values["w"], values["out"]) == (None, "/shared/runs/it/samples.npz")


@pytest.mark.parametrize("script", [RUN, JOB], ids=["tpu", "slurm"])
def test_flags_go_on_to_the_command(script, tools, parse):
    argv = arguments(dry((script, "train", "--config.mesh.fsdp=8", "--wait=60"), tools))
    values = parse(argv)
    assert (flagging.config(values).mesh.fsdp, values["wait"]) == (8, 60)
    argv = arguments(dry((script, "sample", "--per-label=2", "--labels=0-9"), tools))
    assert (parse(argv)["per-label"], argv[-1]) == (2, "--labels=0-9")


def test_what_runs_where_on_a_slice(tools):
    for stage in STAGES:
        ((*_, on, command),) = dry((RUN, stage), tools, WORKDIR=None)
        assert on == ("--worker=all" if stage in ("train", "sample") else "--worker=0")
        assert f"JAX_PLATFORMS={'cpu' if stage == 'prepare' else 'tpu,cpu'} " in command
        assert f">> /mnt/cfg_jax/logs/imagenet64.{stage}.$(hostname).log 2>&1" in command
        assert ("--workdir /mnt/cfg_jax/runs/imagenet64 " in command) == (stage != "prepare")


def test_a_worker_finds_what_install_sends(tools):
    archive, copy, unpack = dry((INSTALL,), tools)
    (packed,) = [part.removeprefix("--output=") for part in archive if "--output" in part]
    assert packed in copy
    assert f"tar -xzf {Path(packed).name} -C cfg_jax && NFS=10.0.0.2:/share " in remote(unpack)
    script = remote(unpack).split()[-1]
    assert (ROOT.parent / script.replace("cfg_jax", ROOT.name, 1)).resolve() == WORKER


@pytest.mark.parametrize(
    ("kind", "software"),
    [("v4-32", "tpu-ubuntu2204-base"), ("v5litepod-8", "v2-alpha-tpuv5-lite")],
)
def test_a_slice_gets_its_software(kind, software, tools):
    create, _ = dry((CREATE,), tools, TYPE=kind, SPOT="1")
    assert {f"--accelerator-type={kind}", f"--runtime-version={software}", "--spot"} <= {*create}


def test_a_failed_request_is_told(tools):
    stand_in = '#!/bin/bash\n[[ $* != *"describe"* ]] || echo FAILED\n'
    (tools / "bin" / "gcloud").write_text(stand_in)
    done = execute((CREATE,), tools, **SETTINGS)
    assert done.returncode == 2
    assert (
        done.stderr == "create.sh: the request for pod ended as FAILED; delete it, and ask again\n"
    )


@pytest.mark.parametrize(
    ("tasks", "gpus"), [("1", "0,1,2,3,4,5,6,7"), (None, "0,1,2,3,4,5,6,7"), ("8", "")]
)
def test_the_only_process_of_a_node_takes_all_its_gpus(tasks, gpus, tools):
    seen = 'printf "%s" "${JAX_LOCAL_DEVICE_IDS:-}" > seen\n'
    (tools / "bin" / "srun").write_text(f"#!/bin/bash\ncd {tools}\n{seen}")
    done = execute((JOB, "train"), tools, **SETTINGS, SLURM_NTASKS_PER_NODE=tasks)
    assert done.returncode == 0, done.stderr
    assert (tools / "seen").read_text() == gpus


def test_slurm_runs_a_copy_from_elsewhere(tools):
    copy = tools / "spool" / "slurm_script"
    copy.parent.mkdir()
    copy.write_text(JOB.read_text())
    copy.chmod(0o755)
    assert dry((copy, "train"), tools, SLURM_SUBMIT_DIR=str(ROOT)) == dry((JOB, "train"), tools)


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        *[((CREATE,), name) for name in ("NAME", "ZONE", "TYPE")],
        *[((INSTALL,), name) for name in ("NAME", "ZONE", "NFS")],
        ((WORKER,), "NFS"),
        *[((RUN, "train"), name) for name in ("NAME", "ZONE", "RECIPE")],
        *[((JOB, "train"), name) for name in ("RECIPE", "WORKDIR", "SLURM_GPUS_ON_NODE")],
    ],
    ids=lambda value: value if isinstance(value, str) else named(value),
)
def test_a_missing_variable_is_named_in_one_line(call, missing, tools):
    done = execute(call, tools, **SETTINGS | {missing: None})
    assert (done.returncode, done.stdout, called(tools)) == (2, "", [])
    assert re.fullmatch(rf"{call[0].name}: set {missing}: .+\n", done.stderr)


@pytest.mark.parametrize(
    ("call", "changes", "message"),
    [
        ((CREATE,), {"TYPE": "v2-8"}, "TYPE must be v4-N, v5litepod-N, v5p-N or v6e-N; got v2-8"),
        ((RUN, "train"), {"RECIPE": "none"}, "there is no configs/none.py"),
        (
            (RUN, "train"),
            {"WORKDIR": "gs://bucket/run"},
            "WORKDIR must be a directory, not the address gs://bucket/run",
        ),
        ((RUN, "trian"), {}, "give a stage: prepare, train, sample or evaluate"),
        ((JOB,), {}, "give a stage: prepare, train, sample or evaluate"),
    ],
)
def test_mistakes_are_told_in_one_line(call, changes, message, tools):
    done = execute(call, tools, **SETTINGS | changes)
    assert (done.returncode, done.stdout, called(tools)) == (2, "", [])
    assert done.stderr == f"{call[0].name}: {message}\n"


def test_the_guide_names_what_there_is(parse):
    guide = (EXPERIMENTS / "tpu" / "README.md").read_text()
    for path in re.findall(r"(?:experiments|configs)/[\w/]+\.(?:sh|py)", guide):
        assert (ROOT / path).is_file(), path
    for name in ("imagenet64", "imagenet128"):
        config = flagging.config(parse(["train", "--config", str(ROOT / f"configs/{name}.py")]))
        steps, batch = config.train.steps, config.train.batch_size
        evaluations = f"{3e-9 * steps * batch:.1f} · 10⁹"
        assert f"{steps:,} steps × {batch:,} = {evaluations} " in guide
        assert f"{50_000 * config.sample.steps * 2e-7:.1f} · 10⁷" in guide
    for line in re.findall(r"^python -m cfg_jax (.*)$", guide, re.MULTILINE):
        parse(shlex.split(line))
