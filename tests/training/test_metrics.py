"""Metrics on disk: what a crash leaves, what going on drops, and TensorBoard's copy."""

import json
import os

import pytest
from disk import full

from cfg_jax.training import metrics
from cfg_jax.training.ledger import KINDS, Ledger


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


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is no regular file"):
        metrics.read(tmp_path / "metrics.jsonl")


def test_no_flipped_bit_stops_a_run(tmp_path):
    """Each bit of the middle one of three rows; the others are always read."""
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "loss": 0.5, "seconds": {"step": 1.5}} for step in (2, 4, 6)]
    lines = [json.dumps(row).encode() for row in rows]
    for bit in range(8 * len(lines[1])):
        middle = bytearray(lines[1])
        middle[bit // 8] ^= 1 << bit % 8
        path.write_bytes(b"\n".join([lines[0], bytes(middle), lines[2], b""]))
        with metrics.MetricsWriter(tmp_path, step=6) as writer:
            read = writer.kept + writer.dropped
            assert rows[0] in read
            assert rows[2] in read
            ledger = Ledger()
            for row in read:
                ledger.take_over(row.get("seconds"), row.get("seconds"))
            writer.write(8, loss=0.25)
        assert metrics.read(path)[-1] == {"step": 8, "loss": 0.25}


def test_damaged_lines_are_counted_but_not_one_that_was_cut_off(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 2}\n\xff\n[4]\n{"step": "6"}\n{"step": 8')
    with metrics.MetricsWriter(tmp_path, step=8) as writer:
        assert (writer.kept, writer.dropped, writer.damaged) == ([{"step": 2}], [], 3)


def test_a_ledger_adds_up_and_takes_what_is_no_table_for_nothing():
    ledger = Ledger()
    ledger.take_over({"compile": 2.0, "step": 3.0}, {"compile": 2.0, "step": 7.0})
    for nothing in (None, 3, {"compile": "2"}, {"step": float("nan")}, {"other": 1.0}):
        ledger.take_over(nothing, nothing)
    read = ledger.read()
    assert set(read) == set(KINDS)
    assert (read["compile"], read["lost"]) == (2.0, 4.0)
    assert read["step"] == pytest.approx(3.0, abs=0.5)


def test_a_full_disk_names_the_file_and_closing_it_says_nothing_more(tmp_path):
    with metrics.MetricsWriter(tmp_path, step=0) as writer:
        writer.write(2, loss=0.5)
        with full(40), pytest.raises(OSError, match="File too large") as error:
            writer.write(4, loss=0.25)
        with full(40):
            writer.__exit__()
    assert error.value.filename == str(tmp_path / "metrics.jsonl")
    assert metrics.read(tmp_path / "metrics.jsonl") == [{"step": 2, "loss": 0.5}]
