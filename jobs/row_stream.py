"""The training rows as Ray Data streams them to the workers: read once for all of them, a little ahead of training.

One actor answers for the whole run. It reads a stretch of windows at a time, each in a task of its own, into the object
store, where the workers of a node share them. A stretch is a short execution of Ray Data, begun when the one before it
is begun to be trained on: an execution that is held back by its memory limit keeps a core busy while it waits.
Rows that fit into one window are read once for all epochs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext

from cluster.errors import SpecError
from cluster.reservation import NODE_LABEL
from jobs.dataset import blocks_of, each
from jobs.parallel.sample_order import PAGE_ROWS, EpochOrder, steps_in_epoch
from jobs.prepared import Split
from jobs.spec import TrainSpec

WINDOWS_A_STRETCH = 4
STRETCHES_KEPT = 3
"""One that slow workers still read, one that is trained on, and the next."""
MAX_WINDOW_BYTES = 256 * 1024 * 1024


def check_window(split: Split, train: TrainSpec) -> None:
    """Raise SpecError where a window of the training rows would take too much memory."""
    num_bytes = split.row_bytes * min(train.shuffle_rows, split.num_rows)
    if num_bytes > MAX_WINDOW_BYTES:
        raise SpecError(
            f"train.shuffle_rows={train.shuffle_rows} rows of {split.row_bytes:,.0f} bytes are shuffled together "
            f"in memory, about {num_bytes / 2**20:,.0f} MiB; at most {MAX_WINDOW_BYTES / 2**20:.0f} MiB may be. "
            f"Give train.shuffle_rows={int(MAX_WINDOW_BYTES / split.row_bytes)}"
        )


@dataclass(frozen=True)
class RowStream:
    """The rows of a run, for its workers; their `fit` takes `rows`."""

    reader: Any
    """The handle of a `_Reader`."""
    num_rows: int
    seed: int
    shuffle_rows: int
    num_epochs: int

    def rows(self, epoch: int, place: int) -> Iterator[pa.Table]:
        """The rows of an epoch in the order of their visit, from a place on."""
        order = self._order(epoch)
        if order.num_windows == 1:
            yield from self._from_memory(order.window(0)[place:])
            return
        begin = _stretch_at(order, place)
        unwanted = place - int(order.starts[begin])
        for first in range(begin, order.num_windows, WINDOWS_A_STRETCH):
            blocks = ray.get(self.reader.stretch.remote(epoch, first))
            self._announce_after(epoch, first, order)
            for block in blocks:
                rows = ray.get(block)
                yield rows.slice(min(unwanted, rows.num_rows))
                unwanted = max(0, unwanted - rows.num_rows)

    def _from_memory(self, visited: np.ndarray) -> Iterator[pa.Table]:
        """Rows by number, a few at a time: all of them lie in the object store."""
        rows = pa.concat_tables(ray.get(ray.get(self.reader.whole.remote())))
        for begin in range(0, len(visited), PAGE_ROWS):
            yield rows.take(visited[begin : begin + PAGE_ROWS])

    def announce(self, epoch: int, place: int) -> None:
        """Have the rows from a place of an epoch on read, for when they will be wanted."""
        order = self._order(epoch)
        if order.num_windows == 1:
            self.reader.whole.remote()
        else:
            self.reader.stretch.remote(epoch, _stretch_at(order, place))

    def _announce_after(self, epoch: int, first: int, order: EpochOrder) -> None:
        """Have the stretch after that which starts at the window `first` read while that one is trained on."""
        if first + WINDOWS_A_STRETCH < order.num_windows:
            self.reader.stretch.remote(epoch, first + WINDOWS_A_STRETCH)
        elif epoch + 1 < self.num_epochs:
            self.reader.stretch.remote(epoch + 1, 0)

    def _order(self, epoch: int) -> EpochOrder:
        return EpochOrder(self.seed, epoch, self.num_rows, self.shuffle_rows)


def open_stream(split: Split, seed: int, train: TrainSpec, step: int) -> RowStream:
    """Start the reader, for training that goes on at `step`; it ends when the process that opened it drops it."""
    # Beside the driver, so that it does not go with a node that training can do without: with it the rows would go that
    # it has read, and the actor that speaks with the autoscaler, which Ray Data starts where it is first needed.
    here = {NODE_LABEL: str(ray.get_runtime_context().get_node_id())}
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, label_selector=here)(_Reader)
    stream = RowStream(
        actor.remote(split, seed, train.shuffle_rows), split.num_rows, seed, train.shuffle_rows, train.num_epochs
    )
    epoch, step_of_epoch = divmod(step, steps_in_epoch(split.num_rows, train.batch_size))
    if epoch < train.num_epochs:
        stream.announce(epoch, step_of_epoch * train.batch_size)  # ready when the workers have started
    return stream


def _stretch_at(order: EpochOrder, place: int) -> int:
    """The first window of the stretch that holds the row at a place of an epoch."""
    return order.window_at(place) // WINDOWS_A_STRETCH * WINDOWS_A_STRETCH


class _Reader:
    """Reads what is asked for, and keeps the newest of it; so it can be asked anything, again and after its death."""

    def __init__(self, split: Split, seed: int, shuffle_rows: int) -> None:
        self._split = ray.put(split)
        self._num_rows, self._seed, self._shuffle_rows = split.num_rows, seed, shuffle_rows
        self._kept: dict[tuple[int, int], list[ray.ObjectRef[pa.Table]]] = {}
        self._whole: list[ray.ObjectRef[pa.Table]] = []
        DataContext.get_current().execution_options.preserve_order = True

    def whole(self) -> "list[ray.ObjectRef[pa.Table]]":
        """All rows, as tables in the order of their numbers."""
        num_rows = self._num_rows
        self._whole = self._whole or self._read([0], lambda _: np.arange(num_rows))
        return self._whole

    def stretch(self, epoch: int, first: int) -> "list[ray.ObjectRef[pa.Table]]":
        """The rows of some windows of an epoch from the window `first` on, as tables in the order of their visit."""
        if (epoch, first) not in self._kept:
            while len(self._kept) >= STRETCHES_KEPT:
                del self._kept[next(iter(self._kept))]
            order = EpochOrder(self._seed, epoch, self._num_rows, self._shuffle_rows)
            windows = range(first, min(first + WINDOWS_A_STRETCH, order.num_windows))
            self._kept[epoch, first] = self._read(windows, order.window)
        return self._kept[epoch, first]

    def _read(self, parts: Sequence[int], rows_of: Callable[[int], np.ndarray]) -> "list[ray.ObjectRef[pa.Table]]":
        """The rows of every part, read by a task each."""
        split = self._split

        def read(part: int) -> Iterator[pa.Table]:
            yield ray.get(split).take(rows_of(part))

        # Tasks that ask for a CPU would wait for ever where training holds them all.
        return blocks_of(each(parts, read, num_cpus=0))
