"""Scripts of experiments/, which is no package, as modules: loaded from their paths."""

import importlib.util
import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def load(name):
    """The module of a script, anew: "benchmarks/sampling_speed"."""
    path = EXPERIMENTS / f"{name}.py"
    if str(path.parent) not in sys.path:  # where a script finds the modules beside it
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
