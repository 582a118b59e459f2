"""Metrics on disk: what a crash leaves, what going on drops, and TensorBoard's copy."""

import json

from cfg_jax.training import metrics


def test_rows_are_json_lines(tmp_path):
    with metrics.MetricsWriter(tmp_path, step=0) as writer:
        writer.write(2, loss=0.5, loss_by_logsnr=[0.1, None])
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"step": 2, "loss": 0.5, "loss_by_logsnr": [0.1, None]}


def test_going_on_drops_the_steps_that_will_be_made_again(tmp_path):
    with metrics.MetricsWriter(tmp_path, step=0) as writer:
        for step in (2, 4, 6):
            writer.write(step, loss=float(step))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # a crash in the middle of a line
    with metrics.MetricsWriter(tmp_path, step=4) as writer:
        writer.write(6, loss=7.0)
    rows = metrics.read(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(2, 2.0), (4, 4.0), (6, 7.0)]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    with metrics.MetricsWriter(tmp_path, step=0, tensorboard=True) as writer:
        writer.write(2, loss=0.5, loss_by_logsnr=[0.25, None])
    (events,) = (tmp_path / "tensorboard").iterdir()
    raw = events.read_bytes()
    assert b"loss_by_logsnr/0" in raw
    assert b"loss_by_logsnr/1" not in raw
