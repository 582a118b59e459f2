"""Files of `export`: what their metadata may not say is told in one line, before it is used."""

import json

import jax
import jax.numpy as jnp
import pytest
from recipes import tiny

from cfg_jax import exchange, recipe
from cfg_jax.blueprint import blueprint
from cfg_jax.parts import Facts
from cfg_jax.runtime import safetensors_file

LABEL = {"label": jax.ShapeDtypeStruct((), jnp.int32)}
WHOLE = recipe.Description(tiny(), Facts((8, 8, 1), tuple("0123456789"), LABEL))
WRITTEN = json.loads(recipe.to_json(WHOLE))


@pytest.fixture(scope="module")
def params():
    plan = blueprint(WHOLE.config, WHOLE.facts)
    shapes = jax.eval_shape(plan.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def config(**changed):
    """The metadata of a recipe of other fields; those that are None are left out."""
    fields = WRITTEN["config"] | {name.replace("__", "."): v for name, v in changed.items()}
    return WRITTEN | {"config": {name: v for name, v in fields.items() if v is not None}}


def nested(path, depth):
    return config(**{path: None, path + "__kind" * depth: "UNet"})


BAD = {
    **{f"step {text}": (WRITTEN, text) for text in ("-3", str(2**40), "1_0", " 5 ", "x", "", "٣")},
    **{
        f"shape {shape}": (WRITTEN | {"shape": shape}, "0")
        for shape in ([10**8, 8, 1], [2**31] * 3, [10**30], [-1], [True], [8.0], "abc", None, {})
    },
    **{
        f"{name} {value}": (WRITTEN | {name: value}, "0")
        for name in ("rate", "devices")
        for value in (-1, 2**40, float("inf"), float("nan"), "3", True, None, 1.5)
    },
    **{
        f"dtype {dtype}": (WRITTEN | {"arrays": {"label": {"shape": [], "dtype": dtype}}}, "0")
        for dtype in ("O", "V8", "i4,i4", "U5", "complex64", "nonsense", None, 3, [["a", "i4"]])
    },
    "an array of gigabytes": (
        WRITTEN | {"arrays": {"label": {"shape": [10**9], "dtype": "int32"}}},
        "0",
    ),
    "no dtype of examples": (WRITTEN | {"dtype": "x"}, "0"),
    "a kind in a kind": (nested("network__kind", 1), "0"),
    "a kind in a kind of a solver": (nested("sample__solver", 3), "0"),
    "a kind in a kind of an entry": (nested("condition__label__kind", 1), "0"),
    "kinds in kinds": (nested("network__kind", 10), "0"),
    "many kinds in kinds": (nested("network__kind", 50_000), "0"),
    "fields in a field": (nested("network__channels", 2), "0"),
    "a number for a kind": (config(network__kind=3), "0"),
    "lists for a kind": (config(network__kind=[["x"] * 1000] * 1000), "0"),
    "lists in lists": (config(network__channel_mult=json.loads("[" * 100 + "]" * 100)), "0"),
    "a long name of a kind": (config(network__kind="x" * 10**5), "0"),
    "two lines in a name": (config(**{"network.chan\nnels": 3}), "0"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.slow
def test_metadata_out_of_range_are_refused_in_one_line(params, path, name):
    written, step = BAD[name]
    metadata = {"cfg_jax": json.dumps(written), "step": step}
    safetensors_file.write(path, params, metadata)
    with pytest.raises(ValueError, match=r"^(config\.|.*run\.safetensors cannot be read: )") as e:
        exchange.read_description(path)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 500


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "cannot be read: Expecting"),
        ("[" * 10**5, "cannot be read: it has too many levels"),
        ('{"x":' * 10**5 + "1" + "}" * 10**5, "cannot be read: it has too many levels"),
        ('{"shape": [8, 8, 1], "shape": [4, 4, 1]}', "'shape' stands there twice"),
    ],
)
def test_metadata_that_are_none_are_refused_in_one_line(params, path, text, line):
    safetensors_file.write(path, params, {"cfg_jax": text, "step": "0"})
    with pytest.raises(ValueError, match=line) as error:
        exchange.read_description(path)
    assert "\n" not in str(error.value)
    safetensors_file.write(path, params, {"step": "0"})
    with pytest.raises(ValueError, match="was not written by `export`"):
        exchange.read_description(path)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"more\nof": {"a": jnp.ones(1)}}, "more of/a, float32[1], is not wanted"),
        ({"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, "have the same path"),
        ({"params": {}}, "is not there"),
        ({"more": jnp.ones(1, jnp.float8_e4m3fn)}, "more, float8_e4m3fn[1], is not wanted"),
    ],
)
def test_parameters_of_something_else_are_refused_in_one_line(params, path, change, line):
    metadata = {"cfg_jax": json.dumps(WRITTEN), "step": "0"}
    safetensors_file.write(path, params | change, metadata)
    with pytest.raises(ValueError, match="does not hold what its recipe asks for: ") as error:
        exchange.read_description(path)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_numbers_that_are_not_finite_make_no_run(params, path, tmp_path, value):
    names = iter(jax.tree.leaves(jax.tree_util.tree_map_with_path(lambda p, _: str(p), params)))
    last = list(names)[-1]
    broken = jax.tree_util.tree_map_with_path(
        lambda p, leaf: leaf.at[(0,) * leaf.ndim].set(value) if str(p) == last else leaf, params
    )
    safetensors_file.write(path, broken, {"cfg_jax": json.dumps(WRITTEN), "step": "0"})
    with pytest.raises(ValueError, match=r"safetensors holds numbers that are not finite, in par"):
        exchange.import_run(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_within_range_is_read(params, path):
    metadata = {"cfg_jax": json.dumps(WRITTEN | {"rate": 8000}), "step": str(2**31 - 1)}
    safetensors_file.write(path, params, metadata)
    description = exchange.read_description(path)
    assert description.facts == WHOLE.facts._replace(rate=8000)
    assert description.config.network == WHOLE.config.network


def test_a_shape_that_could_not_be_read_again_is_not_written():
    facts = WHOLE.facts._replace(shape=(10**8, 8, 1))
    with pytest.raises(ValueError, match="is no shape of at most"):
        recipe.to_json(WHOLE._replace(facts=facts))
