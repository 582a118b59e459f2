"""Every example in a public docstring runs, and every public name has a docstring."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import cfg_jax

MODULES = [
    info.name
    for info in pkgutil.walk_packages(cfg_jax.__path__, "cfg_jax.")
    if info.name != "cfg_jax.__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for public, value in vars(module).items():
        own = getattr(value, "__module__", None) == name
        if own and not public.startswith("_") and (inspect.isclass(value) or callable(value)):
            assert inspect.getdoc(value), f"{name}.{public}"
