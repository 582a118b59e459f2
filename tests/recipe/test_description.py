"""A run's recipe and data in its directory, and two recipes told apart field by field."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest

from cfg_jax import recipe
from cfg_jax.parts import Facts
from cfg_jax.recipe import description


def changed(**given):
    config = recipe.default()
    fields = [(name.replace("__", "."), str(value)) for name, value in given.items()]
    recipe.override_all(config, fields)
    return config


def described(config=None, fingerprint="ab12", devices=2):
    arrays = {
        "label": jax.ShapeDtypeStruct((), jnp.int32),
        "vector": jax.ShapeDtypeStruct((3,), jnp.float32),
    }
    facts = Facts((8, 8, 1), ("0", "a\nb"), arrays)
    return recipe.Description(config or recipe.default(), facts, fingerprint, devices)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"sample__solver": "Heun", "network__channel_mult": "(1, 3)"},
        {"condition__label": None},
        {"guidance": "Negative", "guidance__cond": {"label": 3}},
        {"guidance": "Negative", "guidance__cond": {}},
        {"guidance": "Composed", "guidance__conds": ({"label": (3, {"a": 1})}, 4)},
        {"condition__text": "my_kinds:Words", "averages__ann": "Constant"},
    ],
)
def test_flatten_and_unflatten_are_inverse(given):
    config = changed(**given)
    flat = recipe.flatten(config)
    assert all(not hasattr(value, "items") or value == {} for value in flat.values())
    again = recipe.unflatten(json.loads(json.dumps(flat)))
    assert again == config
    assert recipe.flatten(again) == flat
    assert list(again.averages) == list(config.averages)
    with pytest.raises(AttributeError):
        again.train.nonsense = 3
    again.condition.more = recipe.node("Vector")


def test_a_copy_is_changed_alone():
    config = recipe.default()
    again = recipe.copied(config)
    again.train.steps = 3
    again.condition.label.p_uncond = 0.5
    assert config == recipe.default()


def test_dictionaries_within_tuples_can_be_hashed_and_copied():
    config = recipe.default()
    conds = ({"label": 1}, {"label": 2, "small": (0.5, {"deep": ()})})
    config.guidance = recipe.node("Composed", conds=conds)
    one, other = description.hashable(config), description.hashable(recipe.copied(config))
    assert (one, hash(one)) == (other, hash(other))
    assert recipe.flatten(recipe.copied(one)) == recipe.flatten(config)
    config.guidance.conds = ({"label": 3},)
    assert description.hashable(config) != one
    with pytest.raises(AttributeError):
        one.guidance.conds = ()


def test_differences_name_what_would_train_something_else():
    old = recipe.default()
    new = changed(condition__label__p_uncond=0.2, network__channels=32, train__log_every=3)
    assert recipe.differences(old, new) == [
        "condition.label.p_uncond: 0.1 -> 0.2",
        "network.channels: 64 -> 32",
    ]
    new = changed(condition__label=None, condition__vector="Vector")
    assert "condition.label.kind: Label -> nothing" in recipe.differences(old, new)
    assert "condition.vector.kind: nothing -> Vector" in recipe.differences(old, new)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("data.dir", "x"),
        ("data.workers", "3"),
        ("data.skip_bad", "True"),
        ("mesh.fsdp", "2"),
        ("mesh.min_size", "2"),
        ("network.remat", "blocks"),
        ("train.steps", "3"),
        ("train.keep", "7"),
        ("sample.w", "4"),
        ("sample.solver", "Heun"),
        ("guidance.low", "-3"),
    ],
)
def test_what_does_not_change_training_may_change(field, text):
    new = recipe.default()
    recipe.override(new, field, text)
    assert new != recipe.default()
    assert recipe.differences(recipe.default(), new) == []


def test_the_noise_that_sampling_lays_on_may_change_and_who_is_hidden_together_may_not():
    old, new = recipe.default(), recipe.default()
    for config in (old, new):
        recipe.override(config, "condition.small", "Small")
        recipe.override(config, "condition.small.logsnr_min", "0.0")
    recipe.override(new, "condition.small.logsnr", "5.0")
    assert recipe.differences(old, new) == []
    recipe.override(new, "condition.small.guided", "True")
    assert recipe.differences(old, new) == ["condition.small.guided: False -> True"]


def test_more_steps_only_go_on_unless_the_rate_decays_over_them():
    old = changed(optimiser__decay="cosine")
    new = changed(optimiser__decay="cosine", train__steps=5)
    assert recipe.differences(old, new) == ["train.steps: 100000 -> 5"]
    old = changed(optimiser="optax:sgd", optimiser__learning_rate=0.1)
    new = changed(optimiser="optax:sgd", optimiser__learning_rate=0.1, train__steps=5)
    assert recipe.differences(old, new) == []


def test_a_description_survives_its_file(tmp_path):
    recipe.claim(tmp_path / "run", described())
    again = recipe.describe(tmp_path / "run")
    assert again == described()
    assert recipe.to_json(again) == recipe.to_json(described())


def test_directories_without_a_run(tmp_path):
    with pytest.raises(ValueError, match="there is no work directory"):
        recipe.describe(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no run: it has no config\.json"):
        recipe.describe(tmp_path)


def broken(**changes):
    return json.loads(recipe.to_json(described())) | changes


def without(name):
    flat = recipe.flatten(recipe.default())
    return {field: value for field, value in flat.items() if not field.startswith(name)}


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "it has too many levels"),
        ([], "it should be an object with a config, got []"),
        ({}, "it has no 'arrays'"),
        (broken(shape=3), "3 is no shape"),
        (broken(shape=[-1]), "is no shape"),
        (broken(shape=["8"]), "is no shape"),
        (broken(class_names="ab"), "no list of names"),
        (broken(class_names=[3]), "no list of names"),
        (broken(arrays={"label": {"shape": [], "dtype": "nonsense"}}), "nonsense"),
        (broken(config=3), "its config is no recipe"),
        (broken(config=without("train.")), "config.train is missing"),
        (broken(config=without("x") | {"more": 3}), "config.more is no part of a recipe"),
        (broken(config=without("x") | {"train": 3}), "train has a value, and fields within it"),
        (broken(config=without("x") | {"sample.w.x": 3}), "within w, which has a value"),
        (broken(config=without("x") | {"sample.w": {"a": 3}}), "sample.w is no value of a recipe"),
    ],
)
def test_damaged_descriptions_are_refused_in_one_line(tmp_path, written, line):
    text = written if isinstance(written, str) else json.dumps(written)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json cannot be read: ") as error:
        recipe.describe(tmp_path)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_is_imported_from_a_runs_own_directory(tmp_path, monkeypatch):
    (tmp_path / "planted_kinds.py").write_text("raise SystemExit('it ran')\n")
    recipe.claim(tmp_path, described())
    written = json.loads((tmp_path / "config.json").read_text())
    written["config"]["network.kind"] = "planted_kinds:Net"
    (tmp_path / "config.json").write_text(json.dumps(written))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="nothing is imported from a run's directory"):
        recipe.describe(tmp_path)
    assert "planted_kinds" not in sys.modules


@pytest.mark.parametrize("module", ["held.run.planted", "held.run.inner.planted", "linked"])
def test_nor_by_a_path_that_leads_there(tmp_path, monkeypatch, module):
    """Folders above the run are packages too, to Python."""
    run = tmp_path / "held" / "run"
    for folder in (run, run / "inner"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "planted.py").write_text("raise SystemExit('it ran')\n")
    (tmp_path / "linked.py").symlink_to(run / "planted.py")
    recipe.claim(run, described())
    written = json.loads((run / "config.json").read_text())
    written["config"]["network.kind"] = f"{module}:Net"
    (run / "config.json").write_text(json.dumps(written))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="nothing is imported from a run's directory"):
        recipe.describe(run)
    assert not [name for name in sys.modules if "planted" in name or name == "linked"]


def test_a_file_is_no_work_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file, and no work directory"):
        description.describe(tmp_path / "file")
