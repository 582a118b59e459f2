"""Eight fake devices for every test, and the noise levels that the mathematics is checked on."""

import atexit
import os
import platform
import resource
import shutil
import signal
import tempfile

import numpy as np
import pytest

DEVICES = "--xla_force_host_platform_device_count=8"
# Most programs here run once, on a few numbers: to optimise their code takes four times as long.
QUICK = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_max_isa=SSE4_2")
quick = platform.machine() in ("x86_64", "AMD64") and "CFG_JAX_TEST_OPTIMISED" not in os.environ
if quick:
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "XLA_FLAGS" not in os.environ:
    from cfg_jax.runtime.cores import flag_known

    known = [flag for flag in QUICK if quick and flag_known(flag)]
    os.environ["XLA_FLAGS"] = " ".join([DEVICES, *known])
# What one test compiled, no other worker or process of this run compiles again.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="cfg_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
# Nor does it train the classifier that scores digits again; the user's own cache is not touched.
if "CFG_JAX_TEST_CACHE" not in os.environ:
    os.environ["CFG_JAX_TEST_CACHE"] = tempfile.mkdtemp(prefix="cfg_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["CFG_JAX_TEST_CACHE"], ignore_errors=True)
os.environ["XDG_CACHE_HOME"] = os.environ["CFG_JAX_TEST_CACHE"]
# A shell's background jobs ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that all workers end at about the same time."""
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
    """Drops the compiled programs of a file behind it, where they fill the memory."""
    yield
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 3 * 2**20:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="session")
def levels() -> np.ndarray:
    """λ over [-20, 20], float32: a grid and its surroundings of zero."""
    rng = np.random.default_rng(0)
    grid = np.linspace(-20.0, 20.0, 161)
    return np.concatenate([grid, rng.uniform(-20, 20, 200), [-1e-3, 0.0, 1e-3]]).astype(np.float32)


@pytest.fixture(scope="session")
def pairs(levels) -> tuple[np.ndarray, np.ndarray]:
    """(λ, λ') with λ < λ', close ones among them, float32."""
    low, high = np.meshgrid(levels[::3], levels[::3])
    near = levels[levels < 19.9]
    low = np.concatenate([low[low < high], near, near]).astype(np.float32)
    grid = np.meshgrid(levels[::3], levels[::3])
    high = np.concatenate([grid[1][grid[0] < grid[1]], near + 1e-2, near + 1e-1])
    return low, high.astype(np.float32)


@pytest.fixture(scope="session", autouse=True)
def prepared_data(tmp_path_factory):
    """Prepared data goes to a place of the tests' own, never to the user's."""
    place = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(place))
        yield place


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A work directory of the tiny recipe, trained to its end."""
    from recipes import tiny

    from cfg_jax.training.loop import train

    workdir = tmp_path_factory.mktemp("trained") / "run"
    train(tiny(), workdir)
    return workdir


@pytest.fixture(scope="session")
def noisy(tmp_path_factory):
    """A work directory of the tiny noisy classifier, trained to its end."""
    from recipes import tiny_classifier

    from cfg_jax.training.loop import train

    workdir = tmp_path_factory.mktemp("noisy") / "run"
    train(tiny_classifier(), workdir)
    return workdir


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory):
    """A work directory of the tiny autoencoder, trained to its end."""
    from recipes import tiny_codec

    from cfg_jax.training.loop import train

    workdir = tmp_path_factory.mktemp("autoencoder") / "run"
    train(tiny_codec(), workdir)
    return workdir


@pytest.fixture(scope="session")
def upscaler(tmp_path_factory):
    """A work directory of the tiny network that enlarges digits, trained to its end."""
    from recipes import tiny_upscaler

    from cfg_jax.training.loop import train

    workdir = tmp_path_factory.mktemp("upscaler") / "run"
    train(tiny_upscaler(), workdir)
    return workdir
