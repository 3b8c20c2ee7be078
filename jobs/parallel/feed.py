"""feed: the rows of each step, for the worker that stands at one place of the layout.

All workers of one replica get the same rows, each its stretch of their sequences; replicas get disjoint ones, and
none is dropped or repeated. A thread reads ahead, so that a step waits only where reading is slower than training.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Full, Queue
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Generator, Tensor

from cluster.layout import Layout
from jobs.parallel.sample_order import EpochOrder, replica_rows, row_keys, step_generator, steps_in_epoch
from jobs.workloads.chain import Batch

READ_AHEAD = 2
"""Steps that wait ready."""
POLL_S = 0.1


Rows = Callable[[int, int], Iterator[pa.Table]]
"""epoch, place -> the rows of that epoch in the order of their visit, from that place on, in tables of any length."""


class Numbered(Protocol):
    """Rows by number, of which any may be had: a table, or files."""

    @property
    def num_rows(self) -> int:
        """How many there are."""

    def take(self, rows: np.ndarray, /) -> pa.Table:
        """Those of these numbers [rows] int64, in this order."""


def in_order(numbered: Numbered, seed: int, shuffle_rows: int) -> Rows:
    """What a worker reads for itself: one window at a time."""

    def rows(epoch: int, place: int) -> Iterator[pa.Table]:
        order = EpochOrder(seed, epoch, numbered.num_rows, shuffle_rows)
        for number in range(order.window_at(place), order.num_windows):
            yield numbered.take(order.window(number)).slice(max(0, place - order.starts[number]))

    return rows


@dataclass(frozen=True)
class Source:
    """What a feed reads from; all functions are pure, so that every worker gets the same of them."""

    num_rows: int
    rows: Rows
    tensors: Callable[[pa.Table], Batch]
    """One entry a row."""
    draw: Callable[[Generator], Batch]
    """What a step draws by chance for its whole global batch."""
    sequence: tuple[str, ...] = ()
    """The entries whose second dim is the position in a sequence."""


@dataclass(frozen=True)
class StepRows:
    """The rows of one step."""

    passes: list[Batch]
    """One a pass of gradient accumulation; besides the source's entries each has `key` and `weight` [rows]."""
    num_rows: int
    """Of the global batch, over all replicas."""
    waited_s: float
    """How long training stood still for them."""


class Feed:
    """The rows of one worker."""

    def __init__(
        self, source: Source, layout: Layout, rank: int, seed: int, batch_size: int, device: torch.device
    ) -> None:
        self._source, self._layout, self._rank = source, layout, rank
        self._seed, self._batch_size, self._device = seed, batch_size, device

    @property
    def num_rows(self) -> int:
        """Rows an epoch, over all replicas."""
        return self._source.num_rows

    @property
    def steps_an_epoch(self) -> int:
        """Global batches an epoch."""
        return steps_in_epoch(self._source.num_rows, self._batch_size)

    def epoch(self, epoch: int, first: int) -> Iterator[StepRows]:
        """The steps of an epoch from `first` on, in order."""
        ready: Queue[StepRows | Exception] = Queue(READ_AHEAD)
        stopped = threading.Event()
        reader = threading.Thread(target=self._read_ahead, args=(epoch, first, ready, stopped), daemon=True)
        reader.start()
        try:
            for _ in range(first, self.steps_an_epoch):
                started = time.perf_counter()
                rows = ready.get()
                if isinstance(rows, Exception):
                    raise rows
                yield StepRows(rows.passes, rows.num_rows, time.perf_counter() - started)
        finally:
            stopped.set()
            reader.join()

    def _read_ahead(
        self, epoch: int, first: int, ready: "Queue[StepRows | Exception]", stopped: threading.Event
    ) -> None:
        try:
            batches = _in_batches(self._source.rows(epoch, first * self._batch_size), self._batch_size)
            num_left = self.num_rows - first * self._batch_size
            for number, batch in enumerate(batches, epoch * self.steps_an_epoch + first):
                if batch.num_rows < min(self._batch_size, num_left):
                    break
                num_left -= batch.num_rows
                if not _put(ready, self._step(batch, number), stopped):
                    return
            if num_left:
                raise EOFError(f"epoch {epoch} has {self.num_rows} rows, {num_left} of them did not come")
        except Exception as error:  # raised again where the rows are wanted
            _put(ready, error, stopped)

    def _step(self, batch: pa.Table, number: int) -> StepRows:
        """This worker's part of the global batch of step `number`, counted over all epochs."""
        layout = self._layout
        places, weight = replica_rows(batch.num_rows, layout.replica(self._rank), layout.num_replicas, self._batch_size)
        is_whole = np.array_equal(places, np.arange(batch.num_rows))  # then a copy would be for nothing
        rows = self._source.tensors(batch if is_whole else batch.take(places))
        rows |= {name: self._stretch(rows[name]) for name in self._source.sequence}
        rows |= {"key": torch.from_numpy(row_keys(self._seed, number, places)), "weight": torch.from_numpy(weight)}
        drawn = self._source.draw(step_generator(self._seed, number, "draw"))
        passes = zip(*(values.chunk(layout.accumulation) for values in rows.values()), strict=True)
        return StepRows(
            [self._on_device(dict(zip(rows, values, strict=True)) | drawn) for values in passes], batch.num_rows, 0.0
        )

    def _stretch(self, values: Tensor) -> Tensor:
        """This worker's positions of each row."""
        return values.chunk(self._layout.context, dim=1)[self._layout.coordinate(self._rank).context].contiguous()

    def _on_device(self, rows: Batch) -> Batch:
        if self._device.type == "cpu":
            return rows
        return {name: values.pin_memory().to(self._device, non_blocking=True) for name, values in rows.items()}


def _in_batches(tables: Iterator[pa.Table], batch_size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `batch_size`; the last one has what is left."""
    rest = None
    for table in tables:
        rows = table if rest is None else pa.concat_tables([rest, table])
        num_whole = rows.num_rows - rows.num_rows % batch_size
        for start in range(0, num_whole, batch_size):
            yield rows.slice(start, batch_size)
        rest = rows.slice(num_whole) if num_whole < rows.num_rows else None
    if rest is not None:
        yield rest


def _put(ready: "Queue[StepRows | Exception]", rows: StepRows | Exception, stopped: threading.Event) -> bool:
    """Whether there was room before the reader was stopped."""
    while not stopped.is_set():
        try:
            ready.put(rows, timeout=POLL_S)
        except Full:
            continue
        return True
    return False
