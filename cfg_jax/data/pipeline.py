"""The stream of training batches: a function of (seed, step) alone."""

import dataclasses
import functools
import logging
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Generator
from multiprocessing import resource_tracker
from typing import Any

import numpy as np

from cfg_jax.data import buckets
from cfg_jax.data.dataset import SKIPPING, ArraySource, Dataset, Source, UnreadableError
from cfg_jax.data.windows import Windowed

_AHEAD = 8  # Batches read before they are asked for, so that the device never waits for the host.
_THREADS = 4
_IN_A_ROW = 100  # So many bad examples one after another are no exceptions any more.

TWIN = "_mirrored"
"""What stands behind the name of an array that holds another's values for mirrored examples."""

_LOG = logging.getLogger(__name__)
_WARNED: set[str] = set()  # Of each bad example once, though it comes every epoch.
_WARNING = threading.Lock()

Batch = dict[str, np.ndarray]


class LostWorkerError(RuntimeError):
    """A process that reads data ended, though nobody asked it to."""


def batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """Yields this process's part of one global batch after another, without end.

    Examples lie on one line, epoch after epoch, each epoch a new shuffle of the whole dataset;
    global batch k holds places k * batch_size to (k + 1) * batch_size. The example, the flip and
    which of its texts is taken at a place are functions of (seed, place), so the stream is the same
    with any number of workers or processes, and wherever it starts. So it is where examples cannot
    be read and may be skipped: in the place of such a one comes the next readable one of its epoch,
    after the last the first. A picture that is cut is cut at a place of (seed, place) too.

    Where pictures lie in buckets, a batch is of one bucket, a function of (seed, step), and each
    bucket has a line of its own.

    Args:
      dataset: what to draw from, and how; it may be smaller than a batch. Its workers are spawned,
        so a script that uses them needs the usual `if __name__ == "__main__":`.
      batch_size: examples in a global batch; a multiple of `process_count`.
      seed: 0 or more.
      start: the step of the first batch.
      process_index: which contiguous part of each global batch is this process's.
      process_count: how many processes share a global batch.

    Returns:
      A generator of {"x": uint8 or int16 (b, ..., channels), …, "replaced": int32 (b,)} with
      b = batch_size / process_count and the dataset's further arrays, such as "label": int32 (b,),
      and texts, str (b,); "replaced" is 1 where another example stands in for an unreadable one,
      else 0. Its `close()` ends threads and workers. It raises `UnreadableError` at the batch of an
      unreadable example, or, with `skip_bad`, of 100 in a row, and `LostWorkerError` where a worker
      was killed.

    Raises:
      ValueError: if an argument is out of range.
    """
    _check_ranges(batch_size, seed, start, dataset.workers)
    if process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index should be one of 0 to process_count - 1, got {process_index} "
            f"of {process_count}"
        )
    if batch_size % process_count:
        raise ValueError(
            f"batch_size should be a multiple of the {process_count} processes, got {batch_size}"
        )
    rows = batch_size // process_count

    def reader(source: Source, seed: int) -> _Reader:
        return _Reader(
            source,
            seed,
            dataset.flip,
            dataset.skip_bad,
            stride=batch_size,
            offset=process_index * rows,
            rows=rows,
        )

    if isinstance(dataset.source, buckets.Bucketed):
        held = [
            reader(bucket, buckets.seed_of(seed, number))
            for number, bucket in enumerate(dataset.source.buckets)
        ]
        return _stream(_Turns(tuple(held), seed), start, dataset.workers)
    return _stream(reader(dataset.source, seed), start, dataset.workers)


def _check_ranges(batch_size: int, seed: int, start: int, workers: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size should be 1 or more, got {batch_size}")
    for name, value in (("seed", seed), ("start", start), ("workers", workers)):
        if value < 0:
            raise ValueError(f"{name} should be 0 or more, got {value}")


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads one process's part of the global batch of a step."""

    source: Source
    seed: int
    flip: bool
    skip_bad: bool
    stride: int
    offset: int
    rows: int

    def __call__(self, step: int) -> Batch:
        first = step * self.stride + self.offset
        epochs, places = np.divmod(np.arange(first, first + self.rows), len(self.source))
        indices = np.empty(self.rows, np.int64)
        mirrored = np.empty(self.rows, bool)
        chance = np.empty(self.rows)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order, mirror, of_text = _epoch(self.seed, int(epoch), len(self.source))
            indices[here], mirrored[here] = order[places[here]], mirror[places[here]]
            chance[here] = of_text[places[here]]
        if isinstance(self.source, ArraySource):
            batch = {**self.source[indices], "replaced": np.zeros(self.rows, np.int32)}
        else:
            batch = _stack([self._example(*at) for at in zip(epochs, places, strict=True)])
        for name, values in batch.items():
            if values.dtype == object:
                batch[name] = _chosen(values, chance)
        if self.flip:
            batch["x"][mirrored] = batch["x"][mirrored][..., ::-1, :]
            for twin in [name for name in batch if name.endswith(TWIN)]:
                batch[twin.removesuffix(TWIN)][mirrored] = batch.pop(twin)[mirrored]
        return batch

    def _example(self, epoch: np.int64, place: np.int64) -> dict[str, Any]:
        """Reads the example at a place of an epoch, or the one that stands in for it."""
        order, *_ = _epoch(self.seed, int(epoch), len(self.source))
        attempts = min(_IN_A_ROW, len(order))
        for bad in range(attempts):
            try:
                example = self._read(int(order[(place + bad) % len(order)]), int(epoch), place)
            except UnreadableError as error:
                if not self.skip_bad:
                    raise UnreadableError(f"{error}; {SKIPPING}") from error
                last = str(error)
                _warn_once(last)
            else:
                return {**example, "replaced": np.int32(bad > 0)}
        raise UnreadableError(f"{attempts} examples in a row cannot be read, the last: {last}")

    def _read(self, index: int, epoch: int, place: np.int64) -> dict[str, Any]:
        """An example, cut at the place's window where it is larger than that."""
        if not isinstance(self.source, Windowed):
            return self.source[index]
        return self.source.at(index, _windows(self.seed, epoch, len(self.source))[place])


@dataclasses.dataclass(frozen=True)
class _Turns:
    """Reads one process's part of the global batch of a step from the bucket whose turn it is."""

    readers: tuple[_Reader, ...]
    seed: int

    def __call__(self, step: int) -> Batch:
        sizes = tuple(len(reader.source) for reader in self.readers)
        bucket, number = buckets.turn(self.seed, step, sizes)
        return self.readers[bucket](number)


# Grain's own shuffle, random_map and batch take 2 ms for 64 digits in memory; drawing an epoch's
# permutation at once, and indexing with it, 0.02 ms.
@functools.lru_cache(maxsize=2 * _THREADS)  # Each thread's batch may end an epoch.
def _epoch(seed: int, epoch: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An epoch's order of examples, which places are mirrored, and a number in [0, 1) each."""
    rng = np.random.default_rng((seed, epoch))
    return rng.permutation(size), rng.random(size) < 0.5, rng.random(size)


@functools.lru_cache(maxsize=2 * _THREADS)
def _windows(seed: int, epoch: int, size: int) -> np.ndarray:
    """Where the window of each place of an epoch lies: two numbers in [0, 1) each."""
    return np.random.default_rng((seed, epoch, 1)).random((size, 2))


def _chosen(texts: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """One of each example's texts."""
    return np.array([held[int(u * len(held))] for held, u in zip(texts, chance, strict=True)])


def _warn_once(bad: str) -> None:
    with _WARNING:
        if bad in _WARNED:
            return
        _WARNED.add(bad)
    _LOG.warning("%s; another one takes its place", bad)


def _stack(examples: list[dict[str, Any]]) -> Batch:
    return {key: _stacked([example[key] for example in examples]) for key in examples[0]}


def _stacked(values: list[Any]) -> np.ndarray:
    """Arrays as one array; tuples of texts as an array of objects."""
    if not isinstance(values[0], tuple):
        return np.stack(values)
    held = np.empty(len(values), object)
    held[:] = values
    return held


def _stream(reader: _Reader | _Turns, start: int, workers: int) -> Generator[Batch, None, None]:
    import grain

    ahead = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    stream = grain.MapDataset.range(start, sys.maxsize).map(reader).to_iter_dataset(ahead)
    if workers:
        _parse_flags()
        _start_tracker()
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
            worker_init_fn=_follow,
        )
    try:
        yield from stream  # Closing this generator closes Grain's iterator too.
    except RuntimeError as error:
        code = re.search(r"exit code (-?\d+)", str(error))
        if code is None:
            raise
        raise LostWorkerError(
            f"a process that reads data (data.workers) ended with exit code {code[1]}; "
            "-9 may mean that memory ran out"
        ) from error


def _follow(*_: int) -> None:
    """Has this process, a worker, end with the one that started it, `kill -9` included."""
    trainer = multiprocessing.parent_process()
    assert trainer is not None

    def wait() -> None:
        trainer.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="follow").start()


def _start_tracker() -> None:
    """Starts what frees the shared memory of workers; it warns of none, whoever left it behind."""
    silent = "ignore:resource_tracker"
    sys.warnoptions.append(silent)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(silent)


def _parse_flags() -> None:
    """Grain hands absl's flags to its workers, and insists that they are parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
