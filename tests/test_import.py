"""What `import cfg_jax` brings along, and what it shows."""

import subprocess
import sys

HEAVY = (
    "tensorflow",
    "tensorflow_datasets",
    "grain",
    "orbax",
    "matplotlib",
    "scipy.special",
    "flax",
    "PIL",
    "sklearn",
)


def said(code):
    """What another Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, cfg_jax; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert said(code) == "[]"


def test_importing_the_package_starts_and_sets_nothing():
    code = (
        "import os; before = dict(os.environ)\n"
        "import cfg_jax\n"
        "from jax._src import xla_bridge\n"
        "print(before == dict(os.environ), xla_bridge.backends_are_initialized())\n"
    )
    assert said(code) == "True False"


def test_every_public_name_is_there_and_documented():
    code = (
        "import cfg_jax\n"
        "for name in cfg_jax.__all__:\n"
        "    assert getattr(cfg_jax, name).__doc__, name\n"
        "try:\n"
        "    cfg_jax.nothing\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    assert "has no attribute 'nothing'" in said(code)


def test_it_shows_what_is_for_users_and_nothing_else():
    code = (
        "import cfg_jax\n"
        "shown = dir(cfg_jax)\n"
        "wanted = {'load', 'Model', 'Run', 'use_cores', 'sample', 'inversion', 'recipe'}\n"
        "hidden = {'Any', 'importlib', 'TYPE_CHECKING'}\n"
        "print(wanted <= set(shown), sorted(hidden & set(shown)))\n"
        "from cfg_jax import inversion, load, recipe\n"
    )
    assert said(code) == "True []"
