"""Eight fake devices for every test, and the noise levels that the mathematics is checked on."""

import atexit
import fcntl
import gc
import os
import platform
import resource
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

DEVICES = "--xla_force_host_platform_device_count=8"
# Most programs here run once, on a few numbers: to optimise their code takes four times as long.
QUICK = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_max_isa=SSE4_2",
    "--xla_cpu_parallel_codegen_split_count=1",
)
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
# Where in the code an operation came from, no test asks.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# Nor does it train the classifier that scores digits again; the user's own cache is not touched.
if "CFG_JAX_TEST_CACHE" not in os.environ:
    os.environ["CFG_JAX_TEST_CACHE"] = tempfile.mkdtemp(prefix="cfg_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["CFG_JAX_TEST_CACHE"], ignore_errors=True)
os.environ["XDG_CACHE_HOME"] = os.environ["CFG_JAX_TEST_CACHE"]
# A shell's background jobs ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not walk over it while programs trace."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that all workers end at about the same time."""
    items.sort(key=lambda item: "training" not in item.path.parts)


def memory():
    """Bytes that this process holds; 0 where the system does not say."""
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * resource.getpagesize() if told.exists() else 0


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
    """Drops the compiled programs of a file behind it, where they fill the memory."""
    yield
    if memory() > 4 * 2**30:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="module")
def optimised():
    """Programs are compiled as users compile them: for what computes longer than it compiles."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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


def shared(tmp_path_factory, name, recipe):
    """The work directory of a recipe trained to its end, by the first worker that asks for it."""
    from cfg_jax.training.loop import train

    base = tmp_path_factory.getbasetemp()  # a worker's lies within that of the whole run
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared" / name
    place.mkdir(parents=True, exist_ok=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "done").exists():
            train(recipe, place / "run")
            (place / "done").touch()
    return place / "run"


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A work directory of the tiny recipe, trained to its end. Tests may read it alone."""
    from recipes import tiny

    return shared(tmp_path_factory, "tiny", tiny())


@pytest.fixture(scope="session")
def noisy(tmp_path_factory):
    """A work directory of the tiny noisy classifier, trained to its end."""
    from recipes import tiny_classifier

    return shared(tmp_path_factory, "classifier", tiny_classifier())


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory):
    """A work directory of the tiny autoencoder, trained to its end."""
    from recipes import tiny_codec

    return shared(tmp_path_factory, "codec", tiny_codec())


@pytest.fixture(scope="session")
def upscaler(tmp_path_factory):
    """A work directory of the tiny network that enlarges digits, trained to its end."""
    from recipes import tiny_upscaler

    return shared(tmp_path_factory, "upscaler", tiny_upscaler())
