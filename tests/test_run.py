"""A loaded run: its recipe, its checkpoints and averages, and how it may sample otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny

import cfg_jax
from cfg_jax import guidance, recipe, schedules, solvers
from cfg_jax.optim import Constant, Power
from cfg_jax.run import named_run
from cfg_jax.sampling import fronts
from cfg_jax.training.loop import train

KEY = jax.random.key(0)
Z = jax.random.normal(KEY, (2, 8, 8, 1))
FEW = {"steps": 3, "solver": solvers.DDIM()}


@pytest.fixture(scope="module")
def run(trained):
    return cfg_jax.load(str(trained))


def test_it_knows_its_recipe_and_data(run, trained):
    assert recipe.flatten(run.config.as_configdict()) == recipe.flatten(tiny())
    assert (run.shape, run.null, run.step) == ((8, 8, 1), {"label": 10}, 6)
    assert run.class_names == tuple("0123456789")
    assert run.schedule == schedules.Cosine()
    assert run.checkpoint == trained / "checkpoints" / "6"


def test_it_shows_itself_in_a_line(run, trained):
    told = repr(run)
    assert len(told) < 300
    assert "\n" not in told
    count = sum(leaf.size for leaf in jax.tree.leaves(run.params)) / 1e6
    for part in ("Run(DiT", f"{count:.2f} M", "8×8×1", "label: Label", f"{trained} at step 6"):
        assert part in told


def test_two_runs_are_compared_without_looking_at_their_arrays(run, trained):
    assert run == run
    assert (run == cfg_jax.load(trained)) is False


def test_an_earlier_checkpoint_can_be_asked_for(trained, run):
    earlier = cfg_jax.load(trained, step=3)
    assert earlier.step == 3
    first, last = (jax.tree.leaves(r.params)[0] for r in (earlier, run))
    assert np.abs(first - last).max() > 0


def test_another_load_compiles_nothing_again(trained, run):
    """Neither another checkpoint, nor the same one again, nor parameters changed by hand."""
    run.sample(KEY, [1, 2], **FEW)
    compiled = fronts._jitted._cache_size()
    first = cfg_jax.load(trained, step=3).sample(KEY, [1, 2], **FEW)
    last = cfg_jax.load(trained).sample(KEY, [3, 4], w=0.1, **FEW)
    halved = jax.tree.map(lambda leaf: leaf / 2, run).sample(KEY, [1, 2], **FEW)
    assert fronts._jitted._cache_size() == compiled
    for one, other in ((first, last), (last, halved), (first, halved)):
        assert np.abs(one - other).max() > 1e-3


def test_parameters_are_converted_where_that_is_asked_for(trained, run):
    half = cfg_jax.load(trained, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype("bfloat16")}
    for a, b in zip(jax.tree.leaves(half.params), jax.tree.leaves(run.params), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=1e-2)


def test_runs_that_are_not_there_are_refused(tmp_path, trained, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match="there is no work directory"):
        cfg_jax.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no run"):
        cfg_jax.load(tmp_path)
    with pytest.raises(ValueError, match="no checkpoint of step 5; it has 3, 6"):
        cfg_jax.load(trained, step=5)
    for step in ("6", 6.0, True, -1):
        with pytest.raises(ValueError, match="step must be a whole number of at least 0, got"):
            cfg_jax.load(trained, step=step)
    with pytest.raises(ValueError, match="there is no work directory xxx"):
        cfg_jax.load("x" * 5000)
    (tmp_path / "config.json").write_text((trained / "config.json").read_text())
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        cfg_jax.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json cannot be read"):
        cfg_jax.load(tmp_path)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run with averages of two decays and two widths, and eight checkpoints."""
    config, workdir = tiny(), tmp_path_factory.mktemp("averaged") / "run"
    config.train.steps, config.train.checkpoint_every, config.train.keep = 40, 5, 100
    config.averages.ema.decay = 0.9
    config.averages.short = recipe.node(Constant, decay=0.5)
    config.averages.narrow = recipe.node(Power, width=0.05)
    config.averages.wide = recipe.node(Power, width=0.1)
    train(config, workdir)
    return workdir


def flat(run):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(run.params)])


@pytest.mark.parametrize(
    ("arguments", "error", "line"),
    [
        ({"dtype": "float7"}, ValueError, "dtype must be one of floats, such as bfloat16"),
        ({"dtype": "float64"}, ValueError, "got float64: JAX_ENABLE_X64 is not set"),
        ({"dtype": "float8_e4m3fn"}, ValueError, "got float8_e4m3fn: no network computes in it"),
        ({"ema": np.ones(2)}, ValueError, "ema must be an average's name, decay or width, got"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of floats, such as bfloat16"),
        ({"dtype": 3}, ValueError, "dtype must be one of floats, such as bfloat16, got 3"),
        ({"path": 3}, TypeError, "path must be a work directory or a file, got 3"),
        ({"path": None}, TypeError, "path must be a work directory or a file, got None"),
        ({"path": "a\nb"}, ValueError, "there is no work directory a\nb"),
        ({"path": "~nobody_here/x"}, ValueError, "there is no work directory ~nobody_here/x"),
    ],
)
def test_what_load_cannot_take_is_told(trained, monkeypatch, arguments, error, line):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(error, match=line):
        cfg_jax.load(**({"path": trained} | arguments))


@pytest.mark.slow
def test_averages_are_told_apart_by_their_name_decay_or_width(averaged):
    first = flat(cfg_jax.load(averaged))
    others = [flat(cfg_jax.load(averaged, ema=ema)) for ema in (0.5, 0.05, 0.1)]
    for i, other in enumerate([first, *others]):
        assert all(not np.array_equal(other, another) for another in others[i:])
    for name, same in (("ema", first), (0.9, first), ("short", others[0]), ("wide", others[2])):
        np.testing.assert_array_equal(flat(cfg_jax.load(averaged, ema=name)), same)


@pytest.mark.slow
def test_an_average_of_another_width_is_made_after_training(averaged):
    """Of nearly a kept width it is nearly that average, and one between them lies between."""
    short, long = (flat(cfg_jax.load(averaged, ema=width)) for width in (0.05, 0.1))
    near, between = (flat(cfg_jax.load(averaged, ema=width)) for width in (0.0501, 0.07))
    apart = np.linalg.norm(long - short)
    assert 0 < np.linalg.norm(near - short) < 0.02 * apart
    share = (between - short) @ (long - short) / apart**2
    assert 0.2 < share < 0.8
    assert np.linalg.norm(between - short - share * (long - short)) < 0.2 * apart


@pytest.mark.slow
def test_an_average_that_cannot_be_had_is_refused(averaged, trained):
    with pytest.raises(ValueError, match=r"no average 0.4; .* wide, 0.9, 0.5, 0.05, 0.1, and any"):
        cfg_jax.load(averaged, ema=0.4)
    with pytest.raises(ValueError, match=r"no average nope; there are"):
        cfg_jax.load(averaged, ema="nope")
    with pytest.raises(ValueError, match=r"no average 0.1; there are ema, 0.9999"):
        cfg_jax.load(trained, ema=0.1)


def as_said(run, **changes):
    """The run sampling as its recipe would with these fields, text as flags give it."""
    config = recipe.copied(run.config.as_configdict())
    recipe.override_all(config, changes.items())
    return run.sampling_as(config)


def test_sampling_otherwise_leaves_the_run_as_it_was(run):
    other = as_said(run, **{"sample.steps": "7", "sample.w": "2.0", "sample.solver": "Heun"})
    assert (other.sampling.steps, other.sampling.w) == (7, 2.0)
    assert other.sampling.solver == solvers.Heun()
    assert (run.sampling.steps, run.sampling.w, run.sampling.solver) == (2, 0.5, None)
    assert other.params is run.params


def test_autoguidance_takes_an_earlier_checkpoint(trained, run):
    earlier = cfg_jax.load(trained, step=3)
    auto = as_said(run, **{"guidance": "Autoguidance", "guidance.weak": ":3"})
    cond = {"label": jnp.array([3, 1])}
    made = guidance.autoguidance(run.denoiser, earlier.denoiser, w=1.0)
    want = cfg_jax.denoiser.read(cfg_jax.denoiser.clipped(made), Z, jnp.float32(0.0), cond)
    got = cfg_jax.denoiser.read(auto.guided(1.0), Z, jnp.float32(0.0), cond)
    np.testing.assert_allclose(got.x, want.x, rtol=1e-4, atol=1e-4)
    assert auto.weak.step == 3
    with pytest.raises(ValueError, match="no checkpoint of step 5"):
        as_said(run, **{"guidance": "Autoguidance", "guidance.weak": f"{trained}:5"})


def test_a_weaker_network_of_other_conditions_is_refused(run, upscaler):
    with pytest.raises(ValueError, match=r"guidance.weak must be of the same data and conditions"):
        as_said(run, **{"guidance": "Autoguidance", "guidance.weak": str(upscaler)})


def test_a_network_that_enlarges_is_guided_by_what_the_recipe_says(upscaler):
    run = cfg_jax.load(upscaler)
    assert run.null["label"] == 10
    assert run.null["small"] is cfg_jax.condition.KEPT
    both = as_said(run, **{"condition.small.guided": "True"})
    assert both.null["small"] == cfg_jax.condition.Noisy(0.0, -10.0)
    small = np.zeros((2, 4, 4, 1), np.float32)
    x = run.sample(KEY, label=[3, 4], small=small, **FEW)
    assert x.shape == (2, 8, 8, 1)
    with pytest.raises(ValueError, match=r"the model needs small=…, one an example"):
        run.sample(KEY, label=[3, 4])
    with pytest.raises(ValueError, match=r"name the entries of the condition: label=…, small=…"):
        run.sample(KEY, [3, 4])
    with pytest.raises(ValueError, match="same leading batch axis"):
        run.sample(KEY, label=[3], small=small)


@pytest.mark.parametrize("name", ["a\nb", "run:" + "1" * 5000, "\n:3"])
def test_an_odd_name_of_a_run_is_answered(name):
    with pytest.raises((ValueError, OSError)):
        named_run(name)
