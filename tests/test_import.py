"""What `import cfg_jax` brings along."""

import subprocess
import sys

HEAVY = (
    "tensorflow",
    "tensorflow_datasets",
    "grain",
    "orbax",
    "matplotlib",
    "flax",
    "PIL",
    "sklearn",
)


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, cfg_jax; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "has no attribute 'nothing'" in done.stdout
