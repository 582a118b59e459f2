"""As many devices as cores: what is asked for, what the user asked for already, and too late."""

import os
import subprocess
import sys

import jax
import pytest
from launch import PYTHONPATH

from cfg_jax.runtime import cores


def told(code, **environment):
    """What a fresh process prints, which has no flags but these."""
    ours = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES")
    rest = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-c", f"import jax\nfrom cfg_jax.runtime import cores\n{code}"],
        env={**rest, "PYTHONPATH": PYTHONPATH, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split("\n")[:-1]


def test_as_many_devices_as_cores_and_a_sentence_where_it_is_too_late():
    code = """
print(cores.use_cores(2), cores.use_cores(3), cores.use_cores(), jax.device_count())
print(cores.use_cores(3))
try:
    cores.use_cores(2)
except ValueError as error:
    print(error)
"""
    assert told(code) == [
        "2 3 3 3",
        "3",
        "JAX has started on 3 of 2 cores: call use_cores before anything that asks JAX for its "
        "devices",
    ]


def test_by_default_all_cores_that_the_process_may_use():
    code = "import os\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    assert told(f"{code}print(cores.use_cores(), jax.device_count())") == ["1 1"]
    assert told("print(cores.use_cores() == cores.available() == jax.device_count())") == ["True"]


@pytest.mark.parametrize(
    "environment",
    [
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"},
        {"JAX_NUM_CPU_DEVICES": "5"},
    ],
)
def test_the_users_own_count_is_kept(environment):
    code = "print(cores.use_cores(), cores.use_cores(2), jax.device_count(), cores.use_cores(2))"
    assert told(code, **environment) == ["5 5 5 5"]


def test_importing_the_library_asks_for_nothing():
    code = "import os, cfg_jax\nprint(os.environ.get('XLA_FLAGS'), jax.device_count())"
    assert told(code) == ["None 1"]


@pytest.mark.parametrize("platforms", ["cuda", "tpu,cpu"])
def test_off_the_processor_nothing_is_asked_for(platforms):
    code = "print(cores.use_cores(4), jax.config.jax_num_cpu_devices)"
    assert told(code, JAX_PLATFORMS=platforms) == ["1 -1"]


def test_no_cores_are_refused():
    with pytest.raises(ValueError, match="at least 1 core to use; got 0"):
        cores.use_cores(0)


def test_flags_are_known_or_not_and_asking_ends_nothing():
    assert cores.flag_known("--xla_force_host_platform_device_count=8")
    assert not cores.flag_known("--xla_no_such_flag=1")
    assert jax.device_count() == 8


@pytest.mark.parametrize(("limit", "share"), [("1000\n", 1000), ("max\n", None), (None, None)])
def test_memory_is_the_machines_or_its_containers_if_less(tmp_path, monkeypatch, limit, share):
    monkeypatch.setattr(cores, "LIMIT", tmp_path / "memory.max")
    if limit:
        cores.LIMIT.write_text(limit)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert cores.memory() == (share or whole)
