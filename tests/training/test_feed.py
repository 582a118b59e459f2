"""Reading ahead: order, errors, and data that fall silent."""

import threading
import time

import pytest

from cfg_jax.training.feed import Feed, StalledDataError


def test_batches_come_in_order_and_the_stream_is_closed():
    closed = threading.Event()

    def stream():
        try:
            number = 0
            while True:
                yield {"number": number}
                number += 1
        finally:
            closed.set()

    feed = Feed(stream(), timeout=10.0, report=print)
    assert [next(feed)["number"] for _ in range(50)] == list(range(50))
    feed.close()
    assert closed.wait(5.0)


def test_an_error_in_reading_is_raised_where_the_batch_is_asked_for():
    def stream():
        yield {"number": 0}
        raise ValueError("example 3 cannot be read")

    feed = Feed(stream(), timeout=10.0, report=print)
    assert next(feed) == {"number": 0}
    with pytest.raises(ValueError, match="example 3"):
        next(feed)
    feed.close()


def test_silence_is_reported_and_then_an_error():
    go_on, reports = threading.Event(), []

    def stream():
        yield {"number": 0}
        go_on.wait(30.0)

    feed = Feed(stream(), timeout=0.5, report=reports.append)
    next(feed)
    started = time.perf_counter()
    with pytest.raises(StalledDataError, match=r"no batch has come for 0.5 s"):
        next(feed)
    assert 0.4 < time.perf_counter() - started < 5.0
    assert reports == ["no batch has come for 0.05 s; waiting up to 0.5 s"]
    go_on.set()
    feed.close()


def test_a_slow_batch_is_waited_for():
    reports = []

    def stream():
        time.sleep(0.3)
        yield {"number": 0}

    feed = Feed(stream(), timeout=2.0, report=reports.append)
    assert next(feed) == {"number": 0}
    assert len(reports) == 1
    feed.close()
