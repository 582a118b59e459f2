"""Fields of a recipe changed by text."""

import pytest

from cfg_jax import recipe


def changed(*given):
    config = recipe.default()
    recipe.override_all(config, given)
    return config


def value(config, path):
    for name in path.split("."):
        config = config[name]
    return config


@pytest.mark.parametrize(
    ("path", "text", "want"),
    [
        ("train.steps", "1_000", 1000),
        ("train.tensorboard", "true", True),
        ("train.spike", "3", 3.0),
        ("sample.w", "1e-1", 0.1),
        ("network.channel_mult", "(1,3)", (1, 3)),
        ("network.channel_mult", "1,3", (1, 3)),
        ("network.channel_mult", "[1, 3]", (1, 3)),
        ("network.channel_mult", "2", (2,)),
        ("network.attention_resolutions", "()", ()),
        ("network.dtype", "bfloat16", "bfloat16"),
        ("network.resample", "'conv'", "'conv'"),
        ("guidance.low", "-3", -3.0),
        ("guidance.low", "None", None),
        ("optimiser.clip_norm", "none", None),
        ("mesh.rules", "(('Conv', 'whole'),)", (("Conv", "whole"),)),
    ],
)
def test_text_becomes_what_the_field_takes(path, text, want):
    config = changed((path, text))
    assert value(config, path) == want
    assert type(value(config, path)) is type(want)


def test_a_kind_begins_with_its_own_defaults():
    config = changed(("sample.solver", "heun"), ("sample.solver.gamma", "0.1"))
    assert config.sample.solver == recipe.node("Heun", gamma=0.1)
    recipe.override(config, "sample.solver", "DPMSolverPP")
    assert config.sample.solver == recipe.node("DPMSolverPP")
    recipe.override(config, "sample.solver.kind", "UniPC")
    assert config.sample.solver == recipe.node("UniPC")
    recipe.override(config, "sample.solver", "None")
    assert config.sample.solver is None


def test_kinds_come_before_their_fields_in_any_order():
    config = changed(
        ("network.level_features.rescaled", "True"),
        ("sample.solver.gamma", "0.1"),
        ("network.level_features", "TimestepFeatures"),
        ("condition.text.p_uncond", "0.2"),
        ("sample.solver", "Heun"),
        ("network", "UNet"),
        ("condition.text", "my_kinds:Words"),
    )
    assert config.sample.solver.gamma == 0.1
    assert config.network.level_features.rescaled is True
    assert config.condition.text == recipe.node("my_kinds:Words", p_uncond=0.2)


def test_the_last_of_two_counts():
    assert changed(("train.steps", "3"), ("train.steps", "4")).train.steps == 4


def test_entries_come_and_go():
    config = changed(("condition.label", "None"), ("condition.vector", "Vector"))
    assert list(config.condition) == ["vector"]
    config = changed(("averages.wide", "Power"), ("averages.wide.width", "0.1"))
    assert list(config.averages) == ["ema", "wide"]


def test_import_paths():
    config = changed(("network", "my_kinds:Net"), ("network.width", "3"))
    assert config.network == recipe.node("my_kinds:Net", width=3)
    config = changed(("optimiser", "optax:adam"), ("optimiser.learning_rate", "0.1"))
    assert config.optimiser.kind == "optax:adam"
    recipe.override(config, "optimiser.mu_dtype", "bfloat16")
    assert config.optimiser.mu_dtype == "bfloat16"
    recipe.check(config)


def test_a_field_of_none_that_is_open_takes_a_kind():
    config = changed(
        ("network.level_features", "TimestepFeatures"),
        ("network.level_features.schedule", "LinearBeta"),
        ("network.level_features.schedule.steps", "100"),
    )
    assert config.network.level_features.schedule == recipe.node("LinearBeta", steps=100)


def test_dictionaries():
    config = changed(("guidance", "Negative"), ("guidance.cond", "{'label': 3}"))
    assert config.guidance == recipe.node("Negative", cond={"label": 3})
    recipe.check(config)
    recipe.override(config, "guidance.cond", "5")
    assert config.guidance.cond == 5


@pytest.mark.parametrize(
    ("path", "text", "line"),
    [
        ("train.bach_size", "3", "no config field 'train.bach_size'; did you mean train.batch_siz"),
        ("zzz", "3", "no config field 'zzz'; --help lists them"),
        ("train.steps", "few", "config.train.steps must be a whole number, got 'few'"),
        ("train.steps", "1.5", "config.train.steps must be a whole number, got 1.5"),
        ("train.steps", "None", "config.train.steps must be a whole number, got None"),
        ("train.steps", "9" * 5000, "config.train.steps must be a whole number"),
        ("train.steps", "(" * 5000, "config.train.steps must be a whole number"),
        ("train.tensorboard", "maybe", "config.train.tensorboard must be True or False"),
        ("sample.w", "nan", "config.sample.w must be a number, got nan"),
        ("network.channel_mult", "a,b", "config.network.channel_mult must be a tuple of"),
        ("network.channels.x", "3", "no config field 'network.channels.x'"),
        ("train", "3", "config.train is a group of fields: train.seed, train.init, train.steps"),
        ("condition", "None", "config.condition is a group of fields: condition.label"),
        ("sample.solver", "rk4", "config.sample.solver must be a solver: one of Ancestral, DDIM"),
        ("sample.solver.gamma", "1", "config.sample.solver is None; name a solver first"),
        ("network", "None", "config.network must be a network: one of UNet"),
        ("network", "my_kinds:Thing", "config.network: my_kinds:Thing makes a Thing, not a netwo"),
        ("condition.text", "None", "config.condition.text cannot be removed: there is none"),
        ("condition.text.length", "3", "no config field 'condition.text.length'"),
        ("condition.2", "Label", "no config field 'condition.2'"),
        ("", "3", "no config field ''"),
        ("..", "3", "no config field '..'"),
    ],
)
def test_mistakes_are_refused_in_one_line(path, text, line):
    with pytest.raises(ValueError, match="config") as error:
        changed((path, text))
    assert line in str(error.value)
    assert "\n" not in str(error.value)
