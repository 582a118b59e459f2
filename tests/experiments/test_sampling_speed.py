"""The benchmark of the reverse process: what it counts, what its ratios mean, what it writes."""

import importlib
import itertools
import json
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from cfg_jax import schedules

speed = scripts.load("benchmarks/sampling_speed")
bench = importlib.import_module("sampling_bench")
throughput = importlib.import_module("sampling_throughput")


class Tiny(nn.Module):
    """One product and a label."""

    dtype: Any = "float32"
    takes = ("label",)

    @nn.compact
    def __call__(self, z, logsnr, cond):
        return jnp.tanh(nn.Dense(z.shape[-1])(z) + nn.Embed(6, 1)(cond["label"]))


SIZE = 64
TINY = bench.Bench(Tiny(), (SIZE,), 5, batch=3, steps=8, rounds=2, limit=64)

ASKED = {
    "unguided": 1,
    "classifier_free": 2,
    "negative": 2,
    "composed": 4,
    "scheduled": 2,
    "interval": 1.5,
    "classifier": 1,
    "energy": 1,
    "autoguidance": 2,
    "rescaled": 2,
    "projected": 2,
    "plus_plus": 2,
    "zero_star": 2,
}
"""Evaluations a step: the given condition, the null, and `composed` its two conditions."""


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.slow
def test_evaluations_are_those_that_a_method_is_made_of(name):
    make = speed.methods(TINY.cond, TINY.null, TINY.steps)[name]
    assert speed.evaluations(make, TINY) == {
        "evaluations_an_image": ASKED[name] * TINY.steps,
        "transposes_an_image": TINY.steps if name == "energy" else 0,
    }


def test_a_relative_time_is_the_median_of_the_ratios_in_each_round(monkeypatch):
    """The second method takes 0.5, 0.5 and 2 times as long, though the machine slows down."""
    drift = np.array([1.0, 4.0, 10.0])
    taken = {"some": drift, "other": drift * [0.5, 0.5, 2.0]}
    monkeypatch.setattr(speed, "timed", lambda title, runs, **how: taken)
    made = speed.methods(TINY.cond, TINY.null, TINY.steps)
    makes = {"some": made["classifier_free"], "other": made["unguided"]}
    some, other = speed.compared("method", makes, "some", TINY)
    assert (some["relative_time"], other["relative_time"]) == (1.0, 0.5)
    assert some["images_a_second"] == TINY.batch / 4.0
    assert other["images_a_second"] == TINY.batch / 2.0
    assert (some["evaluations_an_image"], other["evaluations_an_image"]) == (16, 8)


def test_a_step_inside_the_interval_costs_one_evaluation_more(monkeypatch):
    """A quarter of 7 steps is 2, half 4 and three quarters 5."""
    monkeypatch.setattr(speed, "timed", lambda title, runs, **how: {name: [1.0] for name in runs})
    rows = speed.by_share(TINY._replace(steps=7))
    assert [row["share inside"] for row in rows] == ["0%", "25%", "50%", "75%", "100%"]
    assert [row["evaluations_an_image"] for row in rows] == [7 + n for n in (0, 2, 4, 5, 7)]


def test_every_run_is_timed_in_every_round_and_compiled_before():
    called = []
    runs = {name: lambda name=name: called.append(name) for name in "ab"}
    times = speed.timed("test", runs, rounds=2, clock="wall")
    assert called == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(own) for name, own in times.items()} == {"a": 2, "b": 2}


def test_guidance_is_limited_to_the_steps_in_the_middle():
    guided = speed.methods(TINY.cond, TINY.null, 8)["classifier_free"](TINY.eps(), None)
    limited = speed.limited(guided, 0.5, 8)
    levels = schedules.Cosine().grid(8)[:-1]
    inside = [limited.at(level) is guided for level in levels.tolist()]
    assert inside == [False] * 2 + [True] * 4 + [False] * 2


def test_the_processors_clock_stands_still_while_others_work():
    assert bench.seconds(lambda: time.sleep(0.2), "wall") >= 0.2
    assert bench.seconds(lambda: time.sleep(0.2), "processor") < 0.1


def test_the_network_alone_is_a_call_at_each_level():
    eps, z = TINY.eps(), jax.random.normal(jax.random.key(1), (3, SIZE))
    levels = jnp.array([-2.0, 0.0, 3.0])
    want = z
    for level in levels:
        want = eps(want, level, TINY.cond)
    got = speed.network_alone(eps, z, TINY.cond, levels)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_machine_that_slows_down_does_not_change_a_ratio(monkeypatch):
    """Every round takes longer than the last; the sampler always takes 2 % longer than the net."""
    runs = itertools.count()

    def seconds(run, clock):
        slower = 1.5 ** (next(runs) // 4)
        return slower * (1.0 if run.func is speed.network_alone else 1.02)

    monkeypatch.setattr(bench, "seconds", seconds)
    rows = speed.overhead(TINY)
    assert [row["solver"] for row in rows] == ["default", "ancestral", "ddim"]
    for row in rows:
        percent = [row[name] for name in ("overhead_percent", "from", "to")]
        np.testing.assert_allclose(percent, 2.0, rtol=1e-9)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps():
    few, many = speed.by_steps(TINY, steps=(16, 400))
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(TINY.eps()))
    least = parameters + TINY.cond["label"].nbytes + 4 * TINY.batch * SIZE
    assert few["bytes"] >= least
    assert many["bytes"] - few["bytes"] < TINY.batch * SIZE * 4  # not one example's batch more
    assert few["relative_processor_seconds"] == few["relative_bytes"] == 1.0
    assert many["relative_bytes"] == pytest.approx(many["bytes"] / few["bytes"])


def test_flops_are_those_of_the_products():
    products = 2 * SIZE * SIZE
    assert products <= throughput.flops(TINY, TINY.eps()) <= 1.1 * products


def test_the_rate_of_products_is_their_work_by_their_time(monkeypatch):
    monkeypatch.setattr(
        throughput, "seconds", lambda run: 0.5 if np.isfinite(run()).all() else None
    )
    assert throughput.product_rate(jnp.bfloat16, 32, products=4) == 4 * 2 * 32**3 / 0.5


@pytest.mark.parametrize("start", [1, 7, 64, 500])
def test_the_search_ends_within_a_quarter_of_the_largest_that_fits(start):
    for capacity in (0, 1, 2, 3, 37, 64, 99, 100, 1000):
        tried = []

        def fits(size, capacity=capacity, tried=tried):
            tried.append(size)
            return size <= capacity

        found = throughput.largest(fits, start=start, limit=100)
        most = min(capacity, 100)
        assert found <= most <= found + max(1, found // 4) - (found == most == 0)
        assert found == 0 or found in tried
        assert max(tried) <= 100
        assert len(tried) == len(set(tried)) <= 12


def test_running_out_of_memory_is_no_time_and_another_error_an_error():
    assert throughput.unless_out_of_memory(lambda: jnp.zeros(2)) > 0.0
    assert throughput.unless_out_of_memory(lambda: jnp.zeros(10**16, jnp.uint8)) is None

    def broken():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        throughput.unless_out_of_memory(broken)


def test_throughput_counts_both_halves_and_stops_where_memory_does(monkeypatch):
    """A machine that takes 0.1 s an image, and holds 21 of them."""

    def taken(run):
        batch = len(run.args[2]["label"])
        return 0.1 * batch if batch <= 21 else None

    monkeypatch.setattr(throughput, "unless_out_of_memory", taken)
    monkeypatch.setattr(throughput, "product_rate", lambda dtype, size: 1e6)
    monkeypatch.setattr(throughput, "flops", lambda bench, eps: 5e3)
    rows = throughput.by_batch(TINY)
    assert [row["batch"] for row in rows] == [3, 6, 12, 18, 21, 24]
    assert [row["share_of_products"] for row in rows][-1] is None
    for row in rows[:-1]:
        assert row["images_a_second"] == pytest.approx(10.0)
        assert row["evaluations_a_second"] == pytest.approx(10.0 * 2 * 8)
        assert row["share_of_products"] == pytest.approx(10.0 * 2 * 8 * 5e3 / 1e6)
    monkeypatch.setattr(throughput, "unless_out_of_memory", lambda run: None)
    with pytest.raises(ValueError, match="not enough memory"):
        throughput.by_batch(TINY)


@pytest.mark.parametrize(("name", "millions"), [("digits", 0.8), ("adm64", 296)])
def test_the_networks_are_those_of_the_recipes(name, millions):
    made = bench.bench_of(name, "bfloat16")
    z, cond = jnp.zeros((1, *made.shape)), made._replace(batch=1).cond
    shapes = jax.eval_shape(made.network.init, jax.random.key(0), z, jnp.zeros(1), cond)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count / 1e6 == pytest.approx(millions, rel=0.05)
    assert made.network.dtype == "bfloat16"
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))


@pytest.fixture
def tiny(monkeypatch):
    """The tiny network in the place of the recipes', and the compilation cache as it was."""
    monkeypatch.setattr(
        speed, "bench_of", lambda name, dtype, **settings: TINY._replace(**settings)
    )
    cached = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", cached)


@pytest.mark.slow
def test_one_command_measures_and_writes(tiny, tmp_path, capsys):
    out = tmp_path / "speed"
    flags = ["--batch", "2", "--steps", "4", "--rounds", "1", "--limit", "4"]
    sections = ["overhead", "throughput"]
    speed.main([*flags, "--only", *sections, "--out", str(out)])
    report = json.loads(out.with_suffix(".json").read_text())
    assert list(report["sections"]) == sections
    assert {"date", "device", "load", "versions"} <= report.keys()
    assert (report["steps"], report["clock"]) == (4, "wall")
    told = out.with_suffix(".md").read_text()
    assert told.count("\n| --- |") == len(sections)
    printed = capsys.readouterr().out
    for section in told.split("\n\n"):
        assert section.strip() in printed
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["speed.json", "speed.md"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "0"], "at least 1"),
        (["--batch", "many"], "at least 1"),
        (["--only", "nothing"], "invalid choice"),
        (["--network", "none"], "invalid choice"),
        (["--clock", "sun"], "invalid choice"),
        (["--out", "no_such_folder/speed"], "no folder"),
    ],
)
def test_a_wrong_flag_is_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        speed.main(argv)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
