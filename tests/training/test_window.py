"""Rows of metrics: means against NumPy, spikes and skipped steps with the examples they had."""

import numpy as np
import pytest

from cfg_jax.training.step import Metrics
from cfg_jax.training.window import NonFiniteLossError, Window


def metrics(loss, skipped=0, bins=(2.0, 0.0)):
    counts = np.array([4, 0], np.int32)
    return Metrics(
        np.float32(loss),
        np.float32(2 * loss),
        np.array(bins),
        counts,
        np.int32(skipped),
        np.int32(1),
    )


def test_a_row_is_the_mean_of_its_steps():
    window = Window(step=10, batch_size=4)
    for loss in (1.0, 2.0, 6.0):
        window.add(metrics(loss))
    row = window.close()
    assert (row.step, row.values["loss"], row.values["grad_norm"]) == (13, 3.0, 6.0)
    assert row.values["loss_by_logsnr"] == [0.5, None]
    assert (row.values["skipped"], row.values["replaced"]) == (0, 3)
    assert "spikes" not in row.values
    assert not row.notes


def test_skipped_steps_are_told_and_left_out_of_the_means():
    window = Window(step=0, batch_size=4, max_skipped=2)
    window.add(metrics(1.0))
    window.add(metrics(np.nan, skipped=1, bins=(np.nan, 0.0)))
    row = window.close()
    assert row.values["loss"] == 1.0
    assert row.values["skipped"] == 1
    assert row.values["loss_by_logsnr"] == [0.5, None]
    assert row.notes == [
        "at step 2 (examples 4 to 7) the loss is nan and the norm of its gradient nan: "
        "skipped, 1 of 2"
    ]


def test_one_skipped_step_too_many_stops():
    window = Window(step=0, batch_size=4, max_skipped=1)
    window.add(metrics(np.inf, skipped=1))
    window.add(metrics(1.0, skipped=1))
    window.add(metrics(np.nan, skipped=2))
    with pytest.raises(NonFiniteLossError, match=r"step 3 \(examples 8 to 11\).*allows 1 such"):
        window.close()


def test_a_row_of_skipped_steps_alone_has_no_loss():
    window = Window(step=0, batch_size=4, max_skipped=1)
    window.add(metrics(np.nan, skipped=1))
    assert window.close().values["loss"] is None


def test_a_spike_is_told_with_its_examples():
    window = Window(step=0, batch_size=4, spike=10.0)
    rng = np.random.default_rng(0)
    for loss in rng.normal(1.0, 0.01, 60):
        window.add(metrics(loss))
    window.add(metrics(1.5))
    window.add(metrics(1.01))
    row = window.close()
    assert row.values["spikes"] == [{"step": 61, "first_example": 240, "last_example": 243}]
    assert row.notes == ["at step 61 (examples 240 to 243) the loss jumped to 1.5"]


def test_no_spike_before_there_is_a_history_or_where_none_are_wanted():
    early = Window(step=0, batch_size=4, spike=10.0)
    for loss in (1.0, 1.01, 0.99, 50.0):
        early.add(metrics(loss))
    assert early.close().notes == []
    never = Window(step=0, batch_size=4, spike=0.0)
    for loss in [1.0] * 100 + [50.0]:
        never.add(metrics(loss))
    assert never.close().notes == []
