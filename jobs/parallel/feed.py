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
from jobs.parallel.sample_order import EpochOrder, other_places, replica_rows, row_keys, step_generator, steps_in_epoch
from jobs.workloads.chain import Batch

READ_AHEAD = 2
"""Chunks that wait ready."""
CHUNK_BYTES = 4 * 1024 * 1024
"""Of the rows of some steps, which become tensors together: of small steps that costs a fraction of one by one."""
MAX_CHUNK_STEPS = 16
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
    augment: Callable[[Batch, Callable[[], Batch]], Batch] | None = None
    """Changes the entries of whole rows by their `key`; its second argument gives another row of each step for each."""


@dataclass(frozen=True)
class StepRows:
    """The rows of one step."""

    passes: list[Batch]
    """One a pass of gradient accumulation; besides the source's entries each has `key` and `weight` [rows]."""
    num_rows: int
    """Of the global batch, over all replicas."""
    waited_s: float
    """How long training stood still for them."""


_Chunk = list[StepRows] | Exception
"""Neighbouring steps, or what kept them from being made."""


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
        ready: Queue[_Chunk] = Queue(READ_AHEAD)
        stopped = threading.Event()
        reader = threading.Thread(target=self._read_ahead, args=(epoch, first, ready, stopped), daemon=True)
        reader.start()
        try:
            num_left = self.steps_an_epoch - first
            while num_left:
                started = time.perf_counter()
                chunk = ready.get()
                if isinstance(chunk, Exception):
                    raise chunk
                waited_s = time.perf_counter() - started
                for rows in chunk:
                    yield StepRows(rows.passes, rows.num_rows, waited_s)
                    waited_s = 0.0
                num_left -= len(chunk)
        finally:
            stopped.set()
            reader.join()

    def _read_ahead(self, epoch: int, first: int, ready: "Queue[_Chunk]", stopped: threading.Event) -> None:
        try:
            step = epoch * self.steps_an_epoch + first
            num_left = self.num_rows - first * self._batch_size
            for chunk in _in_chunks(self._source.rows(epoch, first * self._batch_size), self._batch_size):
                # Too few for their last step, they are no end of an epoch.
                rows = chunk if chunk.num_rows >= num_left else _whole_steps(chunk, self._batch_size)
                steps = self._steps(rows, step)
                if steps and not _put(ready, steps, stopped):
                    return
                step, num_left = step + len(steps), num_left - rows.num_rows
                if rows.num_rows < chunk.num_rows:
                    break
            if num_left:
                raise EOFError(f"epoch {epoch} has {self.num_rows} rows, {num_left} of them did not come")
        except Exception as error:  # raised again where the rows are wanted
            _put(ready, error, stopped)

    def _steps(self, rows: pa.Table, first: int) -> list[StepRows]:
        """This worker's part of the global batches that `rows` hold, numbered over all epochs from `first` on."""
        layout, size = self._layout, self._batch_size
        replica = layout.replica(self._rank)
        starts = range(0, rows.num_rows, size)
        lengths = [min(size, rows.num_rows - start) for start in starts]
        parts = [replica_rows(length, replica, layout.num_replicas, size) for length in lengths]
        if not parts:
            return []
        taken = np.concatenate([start + places for start, (places, _) in zip(starts, parts, strict=True)])
        is_whole = np.array_equal(taken, np.arange(rows.num_rows))  # then a copy would be for nothing
        entries = self._source.tensors(rows if is_whole else rows.take(taken))
        keys = [row_keys(self._seed, first + number, places) for number, (places, _) in enumerate(parts)]
        entries["key"] = torch.from_numpy(np.concatenate(keys))
        if self._source.augment:

            def other() -> Batch:
                chosen = [
                    start + other_places(self._seed, first + number, length)[places]
                    for number, (start, length, (places, _)) in enumerate(zip(starts, lengths, parts, strict=True))
                ]
                return self._source.tensors(rows.take(np.concatenate(chosen)))

            entries = self._source.augment(entries, other)
        entries |= {name: self._stretch(entries[name]) for name in self._source.sequence}
        of_steps = zip(*(values.split(len(parts[0][0])) for values in entries.values()), strict=True)
        return [
            self._step(dict(zip(entries, values, strict=True)), first + number, length, parts[number][1])
            for number, (values, length) in enumerate(zip(of_steps, lengths, strict=True))
        ]

    def _step(self, rows: Batch, number: int, length: int, weight: np.ndarray) -> StepRows:
        """This worker's rows of step `number`, whose global batch has `length`."""
        rows |= {"weight": torch.from_numpy(weight)}
        drawn = self._source.draw(step_generator(self._seed, number, "draw"))
        passes = zip(*(values.chunk(self._layout.accumulation) for values in rows.values()), strict=True)
        return StepRows(
            [self._on_device(dict(zip(rows, values, strict=True)) | drawn) for values in passes], length, 0.0
        )

    def _stretch(self, values: Tensor) -> Tensor:
        """This worker's positions of each row."""
        return values.chunk(self._layout.context, dim=1)[self._layout.coordinate(self._rank).context].contiguous()

    def _on_device(self, rows: Batch) -> Batch:
        if self._device.type == "cpu":
            return rows
        return {name: values.pin_memory().to(self._device, non_blocking=True) for name, values in rows.items()}


def _in_chunks(tables: Iterator[pa.Table], batch_size: int) -> Iterator[pa.Table]:
    """The same rows in tables of whole batches, few enough to be a chunk; the last one has what is left."""
    rest = None
    for table in tables:
        rows = table if rest is None else pa.concat_tables([rest, table])
        whole = _whole_steps(rows, batch_size)
        length = batch_size * _steps_a_chunk(rows, batch_size)
        for start in range(0, whole.num_rows, length):
            yield whole.slice(start, length)
        rest = rows.slice(whole.num_rows) if whole.num_rows < rows.num_rows else None
    if rest is not None:
        yield rest


def _whole_steps(rows: pa.Table, batch_size: int) -> pa.Table:
    return rows.slice(0, rows.num_rows - rows.num_rows % batch_size)


def _steps_a_chunk(rows: pa.Table, batch_size: int) -> int:
    batch_bytes = int(rows.nbytes * batch_size / max(rows.num_rows, 1))
    return max(1, min(MAX_CHUNK_STEPS, CHUNK_BYTES // max(batch_bytes, 1)))


def _put(ready: "Queue[_Chunk]", steps: _Chunk, stopped: threading.Event) -> bool:
    """Whether there was room before the reader was stopped."""
    while not stopped.is_set():
        try:
            ready.put(steps, timeout=POLL_S)
        except Full:
            continue
        return True
    return False
