"""Names of slices, and what is said of wrong ones."""

import importlib.util

import pytest

from cfg_jax.planning import topology


@pytest.mark.parametrize("name", topology.EXAMPLES.split(", "))
def test_the_examples_are_names(name):
    chip, sides = topology.parse(name)
    assert name == f"{chip.name}:{'x'.join(map(str, sides))}"


@pytest.mark.parametrize(
    "name", ["v9:2x2", "v5e", "v5e-16", "v5e:", "v5e:4xx4", "v5litepod-16", ""]
)
def test_an_unknown_slice_is_told_what_there_is(name):
    with pytest.raises(ValueError, match=r"v4, v5e, v5p, v6e, such as v4:2x2x2.*got") as raised:
        topology.parse(name)
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize(("name", "form"), [("v5e:16", "v5e:AxB"), ("v5p:4x4", "v5p:AxBxC")])
def test_a_slice_has_its_chips_dimensions(name, form):
    with pytest.raises(ValueError, match=form):
        topology.parse(name)
    with pytest.raises(ValueError, match="v6e:AxB"):
        topology.parse("v6e:0x4")


def test_without_the_compiler_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'cfg-jax\[tpu-plan\]'"):
        topology.load("v5e:4x4")
