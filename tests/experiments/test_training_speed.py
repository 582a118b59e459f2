"""The benchmark of training: what its ratios mean, and that everything in it runs."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
import scripts

from cfg_jax.nn import GroupNorm

pytestmark = pytest.mark.slow

speed = scripts.load("benchmarks/training_speed")


def contestant(**own):
    usual = {"forward": list, "training": list, "parameters": 1, "flops": None}
    return speed.Contestant(**{**usual, **own})


def test_the_other_normalisation_is_the_same_function():
    key = jax.random.key(0)
    x = jax.random.normal(key, (2, 3, 3, 64)) * 3.0 + 1.0
    scale, shift = jax.random.normal(key, (2, 2, 64))
    ours, plain = GroupNorm(epsilon=1e-6), speed.PlainGroupNorm()
    gamma = {"scale": jnp.linspace(0.5, 2.0, 64), "bias": jnp.linspace(-1.0, 1.0, 64)}
    for given in ((x,), (x, scale, shift)):
        want = ours.apply({"params": gamma}, *given)
        got = plain.apply({"params": {"GroupNorm_0": gamma}}, *given)
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_a_machine_that_slows_down_favours_nobody(monkeypatch):
    """The second takes twice as long as the first in every turn, whatever the turn takes."""
    turns = itertools.count()

    def seconds(turn):
        return 1.5 ** (next(turns) // 2) * (2.0 if turn is slow else 1.0)

    def slow():
        pass

    monkeypatch.setattr(speed, "seconds", seconds)
    both = {"first": contestant(), "second": contestant(forward=slow, training=slow)}
    found = speed.take_turns(both, repeats=3, batch=6)
    assert found["first"]["forward_of_first"] == found["first"]["training_of_first"] == 1.0
    assert found["second"]["forward_of_first"] == found["second"]["training_of_first"] == 0.5
    assert found["first"]["forward_images_per_second"] == pytest.approx(6 / 1.5)
    assert found["second"]["training_images_per_second"] == pytest.approx(6 / (2.0 * 1.5**4))


def test_the_network_is_measured_on_all_devices_and_on_one(tmp_path, capsys):
    config, out = recipes.write(tmp_path), tmp_path / "speed.json"
    few = ["--size", "8", "--channels", "1", "--classes", "3", "--batch", "8", "--repeats", "1"]
    speed.main(["--config", str(config), *few, "--only", "network", "--out", str(out)])
    report = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == report
    network = report["network"]
    assert (report["devices"], network["devices"]) == (jax.device_count(), 8)
    contestants = network["contestants"]
    assert list(contestants) == ["cfg_jax", "cfg_jax, one device", "plain Flax"]
    sizes = {(one["parameters"], one["forward_flops_per_image"]) for one in contestants.values()}
    assert len(sizes) == 1  # the same network three times
    for one in contestants.values():
        assert min(one[f"{task}_images_per_second"] for task in ("forward", "training")) > 0
    mine, rate = contestants["cfg_jax"], network["matmul_flops_per_second"]
    reached = mine["forward_images_per_second"] * mine["forward_flops_per_image"] / rate
    assert network["forward_of_matmul"] == pytest.approx(reached)


def test_a_config_that_is_missing_is_told_in_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        speed.main(["--config", "nowhere.py"])
    assert stopped.value.code == 2
    assert "the config file 'nowhere.py' does not exist" in capsys.readouterr().err
