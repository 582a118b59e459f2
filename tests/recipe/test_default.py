"""The default recipe, and the ranges of what it says beside its kinds."""

import dataclasses

import pytest

from cfg_jax import recipe, schedules, solvers
from cfg_jax.recipe.blocks import BLOCKS, Mesh, Sample, Train
from cfg_jax.recipe.slots import SLOTS


def test_the_default_is_digits_with_labels():
    config = recipe.default()
    kinds = {name: config[name].kind for name in config if "kind" in config[name]}
    assert kinds == {
        "data": "Digits",
        "network": "UNet",
        "codec": "Pixels",
        "schedule": "Cosine",
        "objective": "Denoising",
        "optimiser": "Adam",
        "guidance": "ClassifierFree",
    }
    assert (config.condition.label.kind, config.condition.label.p_uncond) == ("Label", 0.1)
    assert (config.averages.ema.kind, config.averages.ema.decay) == ("Constant", 0.9999)
    assert (config.sample.solver, config.sample.grid, config.sample.clip.kind) == (
        None,
        None,
        "Static",
    )
    assert (config.objective.target, config.objective.weight.kind) == ("eps", "Uniform")
    assert recipe.make(config.schedule, "schedule") == schedules.Cosine(
        logsnr_min=-20.0, logsnr_max=20.0
    )
    recipe.check(config)


@pytest.mark.parametrize("config", [None, {}, "digits"])
def test_what_is_no_recipe_is_refused(monkeypatch, config):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match="config must be a recipe, such as"):
        recipe.check(config)


def test_a_field_that_does_not_exist_cannot_be_set():
    config = recipe.default()
    for part in (config, config.train, config.network, config.condition.label):
        with pytest.raises(AttributeError, match="nonsense"):
            part.nonsense = 3


def test_kinds_are_changed_by_setting_nodes():
    config = recipe.default()
    config.sample.solver = recipe.node("Heun", gamma=0.1)
    config.condition.vector = recipe.node("Vector", length=3)
    config.averages.wide = recipe.node("Power", width=0.1)
    del config.condition.label
    recipe.check(config)
    assert list(config.averages) == ["ema", "wide"]
    assert recipe.block(config, "sample").solver == solvers.Heun(gamma=0.1)
    config.sample.solver = None
    assert recipe.block(config, "sample").solver is None


def test_blocks_become_objects():
    config = recipe.default()
    assert recipe.block(config, "train") == Train()
    assert recipe.block(config, "mesh") == Mesh()
    clip = recipe.make(config.sample.clip, "clip")
    assert recipe.block(config, "sample") == Sample(clip=clip)


def test_every_field_of_a_block_has_a_meaning():
    from cfg_jax.recipe.signature import meanings

    for kind in BLOCKS.values():
        assert set(meanings(kind)) == {field.name for field in dataclasses.fields(kind)}


WRONG = {
    bool: (None, 1, "x"),
    int: (None, True, -1, 2**31, 2**64, 1.5, float("nan"), "x", (1,)),
    float: (None, float("nan"), float("inf"), -float("inf"), "x", (1.0,)),
    tuple: (None, 3, "x", (), ("x",), (("(", 1),), ((3, 1),), ((".*", 1.5),), ((".*", True),)),
}
ALLOWED = {("mesh", "min_size", 2**31), ("train", "seed", 2**31)}


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        (name, field.name, value)
        for name, kind in BLOCKS.items()
        for field in dataclasses.fields(kind)
        if type(field.default) in WRONG
        for value in WRONG[type(field.default)]
        if (name, field.name, value) not in ALLOWED
    ],
)
def test_every_field_of_a_block_has_a_range(name, field, value):
    config = recipe.default()
    config[name][field] = value
    with pytest.raises(ValueError, match=rf"^config\.{name}\.{field} ") as error:
        recipe.check(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("train.steps", 0, "config.train.steps must lie in [1, 2147483647], got 0"),
        ("train.batch_size", 10**8, "config.train.batch_size must lie in [1, 1048576]"),
        ("train.accumulate", 3, "config.train.accumulate must divide batch_size, 128, got 3"),
        ("train.data_timeout", 0.0, "config.train.data_timeout must be positive"),
        ("train.seed", 2**32, "config.train.seed must lie in [0, 4294967295]"),
        ("sample.w", 1e39, "config.sample.w must lie in"),
        ("sample.steps", 0, "config.sample.steps must lie in"),
        ("sample.solver", "Heun", "config.sample.solver must be a solver, such as node("),
        ("sample.clip", 3, "config.sample.clip must be a clip, such as node("),
        ("train", 3, "config.train must be a group of fields, got 3"),
        ("condition", 3, "config.condition must be a group of nodes, got 3"),
        ("network", None, "config.network must be a network, such as node(UNet)"),
        ("condition.label", 3, "config.condition.label must be a conditioner, such as node("),
        ("condition.label.p_uncond", 1.5, "config.condition.label.p_uncond must lie in [0, 1]"),
        ("schedule.logsnr_min", 30.0, "config.schedule.logsnr_min must be smaller"),
        ("network.blocks", 0, "config.network.blocks"),
        ("network.channels", "x", "config.network.channels must be a whole number, got 'x'"),
        ("network.dtype", "float8", "config.network.dtype"),
        ("optimiser.decay", "step", "config.optimiser.decay"),
        ("optimiser.warmup", -1, "config.optimiser.warmup"),
        ("averages.ema.decay", 2.0, "config.averages.ema.decay"),
        ("guidance.high", float("nan"), "config.guidance.high must be a number or None, got nan"),
    ],
)
def test_values_that_are_not_allowed_are_refused_by_their_path(field, value, line):
    config = recipe.default()
    *outer, name = field.split(".")
    parent = config
    for part in outer:
        parent = parent[part]
    parent[name] = value
    with pytest.raises(ValueError, match="config") as error:
        recipe.check(config)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize("solver", [None, *SLOTS["solver"].kinds])
def test_plus_plus_needs_a_solver_that_reads_eps(solver):
    """Those that step along ε̂: DDIM, and Euler and Heun along the flow."""
    config = recipe.default()
    config.guidance = recipe.node("PlusPlus")
    config.sample.solver = recipe.node(solver) if solver else None
    if solver in ("DDIM", "Euler", "Heun"):
        recipe.check(config)
    else:
        with pytest.raises(ValueError, match=f"as DDIM, Euler, Heun do; got {solver or 'UniPC'}"):
            recipe.check(config)


def test_a_recipe_has_one_average_at_least():
    config = recipe.default()
    del config.averages.ema
    with pytest.raises(ValueError, match=r"config\.averages must name one average at least"):
        recipe.check(config)


@pytest.mark.parametrize("name", ["two words", "class", "kind", "1st"])
def test_entries_have_names_that_calls_can_have(name):
    config = recipe.default()
    config.condition[name] = recipe.node("Label")
    with pytest.raises(ValueError, match="cannot be the name of an entry"):
        recipe.check(config)


def test_what_only_the_data_can_tell_is_not_missed_by_the_check():
    config = recipe.default()
    config.network = recipe.node("my_kinds:NNXNet")
    recipe.check(config)
    config.network.width = "x"
    with pytest.raises(ValueError, match=r"config\.network\.width must be a whole number"):
        recipe.check(config)


def test_a_new_kind_joins_by_its_registry(monkeypatch):
    import my_kinds

    monkeypatch.setitem(dict(SLOTS)["conditioner"].kinds, "Words", my_kinds.Words)
    assert recipe.node(my_kinds.Words).kind == "Words"
    assert recipe.make({"kind": "words"}, "conditioner") == my_kinds.Words()
