"""Nodes: kinds and their fields as plain values, and the objects that are made of them."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import my_kinds
import numpy as np
import optax
import pytest

from cfg_jax import recipe, schedules, solvers
from cfg_jax.networks import UNet
from cfg_jax.nn import LogSNRFeatures, TimestepFeatures
from cfg_jax.objectives import SNR, Denoising
from cfg_jax.recipe.slots import SLOTS
from cfg_jax.sampling import grids


def held(node):
    return {name: held(value) if hasattr(value, "items") else value for name, value in node.items()}


def test_a_node_has_the_kind_and_every_field_with_its_default():
    assert held(recipe.node(solvers.DPMSolverPP)) == {"kind": "DPMSolverPP", "order": 2, "eta": 0.0}
    fields = dataclasses.asdict(grids.Karras(rho=5.0))
    assert held(recipe.node(grids.Karras, rho=5.0)) == {"kind": "Karras"} | fields


def test_kinds_are_given_as_classes_import_paths_and_names():
    for kind in ("heun", "Heun", "cfg_jax.sampling.solvers:Heun"):
        assert recipe.node(kind) == recipe.node(solvers.Heun)
    assert recipe.node("dpm_solver-pp").kind == "DPMSolverPP"
    node = recipe.node("my_kinds:Net", width=3)
    assert node == recipe.node(my_kinds.Net, width=3)
    assert node.kind == "my_kinds:Net"


def test_ambiguous_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"'Uniform' is schedule and weight alike: give the class"):
        recipe.node("Uniform")
    with pytest.raises(ValueError, match=r"no kind 'Huen'; did you mean Heun\?"):
        recipe.node("Huen")
    with pytest.raises(ValueError, match="cannot be named in a recipe"):
        recipe.node(lambda: 3)


def test_values_are_plain():
    """Dtypes become text, callables stay out, numbers of NumPy become Python's."""
    node = recipe.node(my_kinds.Net, sizes=[3, 4])
    assert held(node) == {
        "kind": "my_kinds:Net",
        "width": None,
        "sizes": (3, 4),
        "dtype": "bfloat16",
        "num_classes": None,
    }
    assert recipe.node(my_kinds.Net, dtype=jnp.float16).dtype == "float16"
    assert recipe.node(my_kinds.Net, dtype=np.dtype("float32")).dtype == "float32"
    width = recipe.node(my_kinds.Net, width=np.int32(3)).width
    assert (type(width), width) == (int, 3)
    with pytest.raises(ValueError, match=r"Net.act: a recipe holds numbers, text, tuples and"):
        recipe.node(my_kinds.Net, act=nn.relu)


def test_defaults_of_registered_kinds_become_nodes():
    assert held(recipe.node(Denoising).weight) == {"kind": "Uniform"}
    assert held(recipe.node(UNet).level_features) == {"kind": "LogSNRFeatures"}
    assert recipe.node(my_kinds.Everything).inner == recipe.node(grids.Karras)
    for weight in (SNR, SNR(), "snr", recipe.node(SNR)):
        assert held(recipe.node(Denoising, weight=weight).weight) == held(recipe.node(SNR))


def test_fields_that_are_set_later_are_left_out():
    assert "hidden" not in recipe.node(my_kinds.Everything)
    with pytest.raises(ValueError, match="no field 'hidden'"):
        recipe.node(my_kinds.Everything, hidden=1)


def test_an_unknown_field_is_refused_with_what_may_have_been_meant():
    with pytest.raises(ValueError, match=r"UNet has no field 'chanels'; did you mean channels\?"):
        recipe.node(UNet, chanels=3)
    with pytest.raises(ValueError, match="adam has no field 'kwargs'"):
        recipe.node(optax.adam, kwargs={})
    with pytest.raises(AttributeError, match="rh"):
        recipe.node(grids.Karras).rh = 3


@pytest.mark.parametrize("kind", [None, 3, [], {}])
def test_what_can_make_nothing_is_no_kind(kind):
    with pytest.raises(ValueError, match="kind must be a class, a function or the name of one, g"):
        recipe.node(kind)


def test_a_functions_fields_are_its_parameters():
    node = recipe.node(optax.adam, learning_rate=0.5)
    assert held(node) == {
        "kind": "optax:adam",
        "learning_rate": 0.5,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "eps_root": 0.0,
        "nesterov": False,
    }
    made = recipe.make(node, "optimiser")
    assert isinstance(made, optax.GradientTransformation)
    params = jnp.zeros(3)
    updates, _ = made.update(jnp.ones(3), made.init(params), params)
    np.testing.assert_allclose(updates, -0.5, rtol=1e-5)


def test_make_makes_the_object():
    assert recipe.make(recipe.node(solvers.Heun, gamma=0.1), "solver") == solvers.Heun(gamma=0.1)
    assert recipe.make({"kind": "karras"}, "grid") == grids.Karras()
    want = Denoising(target="v", weight=SNR())
    assert recipe.make(recipe.node(Denoising, target="v", weight=SNR), "objective") == want
    network = recipe.make(recipe.node(UNet, channels=8, dtype=jnp.bfloat16), "network")
    assert network == UNet(channels=8, dtype="bfloat16", level_features=LogSNRFeatures())


def test_lists_become_tuples_and_whole_numbers_floats():
    made = recipe.make(
        {"kind": "my_kinds:Everything", "rate": 1, "pair": [2, "b"]},
        "objective",
        "config.objective",
    )
    assert made == my_kinds.Everything(rate=1.0, pair=(2, "b"))
    assert type(made.rate) is float


def test_open_fields_are_filled_with_facts():
    node = recipe.node(my_kinds.Net, width=1)
    assert recipe.make(node, "network", num_classes=10).num_classes == 10
    assert recipe.make(node, "network").num_classes == 0
    node = recipe.node(my_kinds.Net, width=1, num_classes=3)
    assert recipe.make(node, "network", num_classes=10).num_classes == 3
    linear = schedules.LinearBeta()
    node = recipe.node(UNet, level_features=TimestepFeatures)
    assert recipe.make(node, "network", schedule=linear).level_features.schedule == linear
    node = recipe.node(UNet, level_features=recipe.node(TimestepFeatures, schedule=linear))
    assert node.level_features.schedule == recipe.node(schedules.LinearBeta)
    assert recipe.make(node, "network").level_features.schedule == linear


def everything(**fields):
    return {"kind": "my_kinds:Everything", "rate": 1.0} | fields


@pytest.mark.parametrize(
    ("node", "slot", "line"),
    [
        ({"kind": "Heun", "gamma": "x"}, "solver", "c.gamma must be a number, got 'x'"),
        ({"kind": "Heun", "gamma": True}, "solver", "c.gamma must be a number, got True"),
        ({"kind": "Heun", "gamma": math.nan}, "solver", "c.gamma must be a number, got nan"),
        ({"kind": "Heun", "gamma": None}, "solver", "c.gamma must be a number, got None"),
        ({"kind": "Heun", "gamma": 3.0}, "solver", "c.gamma must lie in"),
        ({"kind": "Heun", "gama": 0.1}, "solver", "c.gama: Heun has no field 'gama'; did you"),
        ({"kind": "Huen"}, "solver", "c must be a solver: one of Ancestral, DDIM"),
        ({"kind": "Huen"}, "solver", "got 'Huen'; did you mean Heun?"),
        ({"kind": 3}, "solver", "c.kind must name a solver, such as Ancestral or DDIM; got 3"),
        ({"kind": {"kind": "Heun"}}, "solver", "c.kind must name a solver, such as Ancestral or"),
        ("Heun", "solver", "c must be a solver, such as node(Ancestral)"),
        (None, "solver", "c must be a solver, such as node(Ancestral)"),
        ({"kind": "Karras"}, "solver", "c must be a solver"),
        ({"kind": "my_kinds:Net"}, "network", "c.width must be given"),
        ({"kind": "my_kinds:Net", "width": None}, "network", "c.width must be given"),
        ({"kind": "my_kinds:Net", "width": 2.0}, "network", "c.width must be a whole number, got"),
        ({"kind": "my_kinds:Net", "width": 2**63}, "network", "c.width must be a whole number"),
        (
            {"kind": "my_kinds:Net", "width": 1, "sizes": ("x",)},
            "network",
            "c.sizes must be a tuple of whole numbers, got ('x',)",
        ),
        ({"kind": "my_kinds:Net", "width": 1, "sizes": 3}, "network", "c.sizes must be a tuple of"),
        ({"kind": "my_kinds:Net", "width": 1, "dtype": 3}, "network", "c.dtype must be text"),
        (everything(is_on=1), "objective", "c.is_on must be True or False, got 1"),
        (everything(title=1), "objective", "c.title must be text, got 1"),
        (everything(pair=(1,)), "objective", "c.pair must be a tuple of 2 (a whole number, text)"),
        (everything(maybe="x"), "objective", "c.maybe must be a number or None, got 'x'"),
        (everything(low="x"), "objective", "c.low must be a number or None, got 'x'"),
        (everything(anything=object), "objective", "c.anything must be a number, text, None, or"),
        (everything(weight=None), "objective", "c.weight must be a weighting, such as node("),
        (everything(weight={"kind": "Heun"}), "objective", "c.weight must be a weighting: one of"),
        (everything(count=-1), "objective", "c.count must not be negative, got -1"),
        (everything(share=2.0), "objective", "c: too large a share"),
        ({"kind": "my_kinds:Words", "length": 0}, "conditioner", "c.length must be at least 1"),
        ({"kind": "my_kinds:Words", "p_uncond": 2.0}, "conditioner", "c.p_uncond must lie in [0"),
    ],
)
def test_mistakes_are_one_line_that_begins_with_the_path(node, slot, line):
    with pytest.raises(ValueError, match="c") as error:
        recipe.make(node, slot, "c")
    message = str(error.value)
    assert line in message
    assert message.startswith("c")
    assert "\n" not in message


def test_none_is_allowed_where_the_annotation_or_the_default_says_so():
    made = recipe.make(everything(maybe=None, low=None, anything=None), "objective")
    assert (made.maybe, made.low, made.anything) == (None, None, None)


@pytest.mark.parametrize(
    ("kind", "slot", "line"),
    [
        ("my_kinds:Thing", "network", "config.x: my_kinds:Thing makes a Thing, not a network"),
        ("my_kinds:dictionary", "optimiser", "my_kinds:dictionary makes a dict, not an optax"),
        ("my_kinds:unsaid", "optimiser", "my_kinds:unsaid does not say what it makes"),
        ("my_kinds:NUMBER", "network", "my_kinds:NUMBER is an int, not a network"),
        ("my_kinds:Nett", "network", "my_kinds has no Nett; did you mean Net?"),
        ("no_such_module:Net", "network", "no_such_module cannot be imported: ModuleNotFound"),
        ("my_kinds:", "network", "must be an import path module:Name, got 'my_kinds:'"),
        ("my_kinds:NUMBER.reel", "network", "my_kinds has no NUMBER.reel; did you mean real?"),
        ("a" * 9_000 + ":Net", "network", f"config.x: {'a' * 97}... cannot be imported: Module"),
        ("../evil:Net", "network", "must be an import path module:Name, got '../evil:Net'"),
        ("subprocess:Popen", "network", "makes a Popen, not a network"),
        ("os:system", "optimiser", "os:system does not say what it makes"),
        ("os:system", "solver", "os:system does not say what it makes"),
        ("builtins:print", "guidance", "config.x: builtins:print is not a guidance method: it got"),
        ("builtins:range", "grid", "builtins:range: <class 'range'> has no signature"),
        ("my_kinds:Net", "solver", "makes a Net, not a solver"),
        ("my_kinds:liar", "optimiser", "config.x is a dict, not an optax transformation"),
    ],
)
def test_what_does_not_fit_its_slot_is_refused_before_it_is_called(kind, slot, line):
    my_kinds.CALLED.clear()
    with pytest.raises(ValueError, match=r"config\.x") as error:
        recipe.make({"kind": kind}, slot, "config.x")
    assert line in str(error.value)
    assert my_kinds.CALLED == []


def test_a_module_that_breaks_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_kinds.py").write_text("def f(:\n")
    (tmp_path / "angry_kinds.py").write_text("raise RuntimeError('two\\nlines')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"^c: broken_kinds cannot be imported: SyntaxError"):
        recipe.make({"kind": "broken_kinds:Net"}, "network", "c")
    with pytest.raises(ValueError, match=r"^c: angry_kinds cannot .* RuntimeError: two lines$"):
        recipe.make({"kind": "angry_kinds:Net"}, "network", "c")
    (tmp_path / "leaving_kinds.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(ValueError, match=r"^c: leaving_kinds cannot be imported: SystemExit: 0$"):
        recipe.make({"kind": "leaving_kinds:Net"}, "network", "c")


@pytest.mark.parametrize("error", ["KeyError('a')", "RuntimeError('no')", "SystemExit(3)"])
def test_a_kind_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, error):
    name = f"unmade_{error[:3].lower()}"
    (tmp_path / f"{name}.py").write_text(
        "class Grid:\n"
        f"    def __init__(self): raise {error}\n"
        "    def __call__(self, schedule, steps): return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    told = error.replace("(", ": ").rstrip(")").replace("'no'", "no")
    with pytest.raises(ValueError, match=f"^config.x: {name}:Grid cannot be made: {told}$"):
        recipe.make({"kind": f"{name}:Grid"}, "grid", "config.x")


def test_what_a_slot_is_derived_from_is_no_kind_of_it():
    with pytest.raises(ValueError, match=r"^c: flax.linen:Module is what a network is derived"):
        recipe.make({"kind": "flax.linen:Module"}, "network", "c")


def test_an_nnx_network_is_wrapped():
    node = recipe.node(my_kinds.NNXNet, width=5)
    assert held(node) == {"kind": "my_kinds:NNXNet", "width": 5, "num_classes": None}
    made = recipe.make(node, "network", num_classes=3)
    assert isinstance(made, nn.Module)
    assert made == recipe.make(node, "network", num_classes=3)
    z = jnp.ones((2, 4, 1))
    params = made.init(jax.random.key(0), z, jnp.zeros(2), {})
    np.testing.assert_array_equal(made.apply(params, z, jnp.zeros(2), {}), z)


def test_fields_may_hold_dictionaries():
    node = recipe.node("Negative", cond={"label": 3, "more": [1, 2]})
    assert dict(node.cond) == {"label": 3, "more": (1, 2)}
    made = recipe.make(node, "guidance")
    assert (type(made.cond), made.cond) == (dict, {"label": 3, "more": (1, 2)})
    node = recipe.node("Composed", conds=({"label": 3}, 5), ws=(1, 2))
    made = recipe.make(node, "guidance")
    assert (made.conds, made.ws) == (({"label": 3}, 5), (1.0, 2.0))
    with pytest.raises(ValueError, match="a recipe holds numbers, text"):
        recipe.node("Negative", cond={"label": object()})


def test_a_function_is_a_weighting():
    node = recipe.node(my_kinds.favour, power=3.0)
    assert held(node) == {"kind": "my_kinds:favour", "power": 3.0}
    made = recipe.make(node, "weight")
    assert float(made(1.0)) == pytest.approx(math.exp(3.0))
    assert made == recipe.make(node, "weight")
    assert hash(made) == hash(recipe.make(node, "weight"))


def test_every_registered_kind_has_a_node_that_names_it():
    """And the node of a kind whose fields all have defaults makes what the kind itself makes."""
    for slot in SLOTS.values():
        for name, kind in slot.kinds.items():
            node = recipe.node(kind)
            assert node.kind == name
            assert slot.find(node.kind, "x") is kind
