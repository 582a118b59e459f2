"""The training loop: going on bitwise, stopping well, and refusing what does not fit."""

import os
import signal

import jax
import numpy as np
import pytest
from recipes import tiny

from cfg_jax.training import config as recipe
from cfg_jax.training import metrics
from cfg_jax.training import state as states
from cfg_jax.training.checkpoints import Checkpoints
from cfg_jax.training.loop import StoppedError, train
from cfg_jax.training.window import NonFiniteLossError


def final(workdir, step):
    config = tiny()
    like = states.init(recipe.network(config, 10), recipe.optimizer(config), (8, 8, 1), 0)
    with Checkpoints(workdir) as checkpoints:
        return jax.device_get(checkpoints.restore(step, like))


def rows(workdir):
    return metrics.read(workdir / "metrics.jsonl")


def test_it_leaves_checkpoints_and_metrics(trained):
    assert sorted(p.name for p in (trained / "checkpoints").iterdir()) == ["3", "6"]
    logged = rows(trained)
    # Rows every 2 steps, and one wherever a checkpoint was made.
    assert [row["step"] for row in logged] == [2, 3, 4, 6]
    for row in logged:
        assert np.isfinite([row["loss"], row["grad_norm"], row["images_per_second"]]).all()
        assert len(row["loss_by_logsnr"]) == 10


def test_going_on_equals_never_having_stopped_bitwise(trained, tmp_path):
    config = tiny()
    config.train.steps = 3
    train(config, tmp_path)
    config.train.steps = 6
    train(config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, final(trained, 6), final(tmp_path, 6))
    for a, b in zip(rows(trained), rows(tmp_path), strict=True):
        assert (a["step"], a["loss"], a["grad_norm"]) == (b["step"], b["loss"], b["grad_norm"])


def test_a_finished_run_is_left_alone(trained, capsys):
    before = sorted(str(p) for p in trained.rglob("*"))
    train(tiny(), trained)
    assert "trained already, to step 6" in "".join(capsys.readouterr())
    assert sorted(str(p) for p in trained.rglob("*")) == before


def test_a_signal_saves_and_stops(tmp_path, monkeypatch):
    from cfg_jax.training import loop

    make_step, made = loop.make_step, []

    def signalling(*args, **options):
        step = make_step(*args, **options)

        def wrapped(state, batch):
            made.append(1)
            if len(made) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return step(state, batch)

        return wrapped

    monkeypatch.setattr(loop, "make_step", signalling)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(StoppedError, match=r"SIGINT; step 2 is saved: .*checkpoints/2"):
        train(tiny(), tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_checkpoint(tmp_path):
    config = tiny()
    config.train.steps = 3
    train(config, tmp_path)
    config.train.steps = 12
    from cfg_jax.training import loop

    make_step = loop.make_step

    def poisoned(*args, **options):
        step = make_step(*args, **options)

        def wrapped(state, batch):
            if int(state.step) == 4:
                state = state._replace(params=jax.tree.map(lambda a: a * np.nan, state.params))
            return step(state, batch)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_step", poisoned)
        with pytest.raises(NonFiniteLossError, match=r"at step 5 .*nan.*checkpoints/3"):
            train(config, tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3"]


def test_grids_of_samples_are_pictures(tmp_path):
    from PIL import Image

    config = tiny()
    config.train.steps = 2
    config.train.sample_every = 2
    train(config, tmp_path)
    picture = Image.open(tmp_path / "samples" / "2.png")
    assert picture.height > picture.width > 200  # ten classes, eight images each, enlarged


def test_another_config_is_refused_field_by_field(trained):
    config = tiny()
    config.p_uncond = 0.2
    config.optim.learning_rate = 1e-3
    with pytest.raises(
        ValueError, match=r"optim.learning_rate: 0.01 -> 0.001; p_uncond: 0.1 -> 0.2"
    ):
        train(config, trained)


def test_a_batch_that_the_devices_do_not_divide_is_refused(tmp_path):
    config = tiny()
    config.train.batch_size = 12
    with pytest.raises(ValueError, match="multiple of the number of devices, 8; got 12"):
        train(config, tmp_path)


def test_an_image_size_the_network_cannot_take_is_refused_before_anything_is_written(tmp_path):
    config = tiny()
    config.model.channel_mult = (1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="multiples of 16; got 8×8"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unconditional_network_trains_and_samples(tmp_path):
    import cfg_jax

    config = tiny()
    config.model.conditional = False
    config.train.steps = 2
    config.train.sample_every = 2
    train(config, tmp_path)
    run = cfg_jax.load(tmp_path)
    assert run.null is None
    assert run.sample(jax.random.key(0), batch=3).shape == (3, 8, 8, 1)
    with pytest.raises(ValueError, match="takes no labels"):
        run.sample(jax.random.key(0), [1])
