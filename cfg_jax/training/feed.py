"""Batches read ahead by a thread, so that data that fall silent are noticed and not waited for."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

Batch = dict[str, Any]


class StalledDataError(RuntimeError):
    """No batch came for as long as the run was willing to wait."""


class Feed:
    """An iterator over a stream's batches that does not wait for ever.

    Args:
      stream: Yields batches; closed with the feed.
      timeout: Seconds without a batch that are an error; a tenth of them is reported.
      report: Takes the report, one line.
    """

    def __init__(
        self, stream: Generator[Batch, None, None], *, timeout: float, report: Callable[[str], Any]
    ):
        self._stream, self._timeout, self._report = stream, timeout, report
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True, name="feed")
        self._thread.start()

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
          StalledDataError: None came in time.
          Exception: Whatever reading it raised.
        """
        item = self._wait(0.1 * self._timeout)
        if item is None:
            self._report(
                f"no batch has come for {0.1 * self._timeout:g} s; "
                f"waiting up to {self._timeout:g} s"
            )
            item = self._wait(0.9 * self._timeout)
        if item is None:
            raise StalledDataError(
                f"the data stalled: no batch has come for {self._timeout:g} s "
                "(train.data_timeout). A worker may have died, or the storage may not answer"
            )
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Ends the thread and the stream; leaves them behind if they do not answer."""
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            self._ready.get_nowait()
        self._thread.join(timeout=5.0)

    def _wait(self, seconds: float) -> Batch | BaseException | None:
        try:
            return self._ready.get(timeout=seconds)
        except queue.Empty:
            return None

    def _read(self) -> None:
        try:
            for batch in self._stream:
                self._offer(batch)
                if self._closed.is_set():
                    break
        except BaseException as error:
            self._offer(error)
        finally:
            self._stream.close()

    def _offer(self, item: Batch | BaseException) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return
