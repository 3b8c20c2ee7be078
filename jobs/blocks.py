"""Rows in numbered blocks, worked on block by block: in this process where they are few, else as Ray Data streams them.

A block's number follows from its place in the raw files alone, and so does all that is made of it: however many
workers there are, whichever is faster, and if one dies and its block is done again.
"""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset
from ray.exceptions import RayError

from cluster.errors import user_error_in
from jobs.dataset import as_table, blocks_of, each
from jobs.progress import Progress

ROWS_A_BLOCK = 1 << 24
"""Numbers of the rows that a block may have; a block is numbered as its first row."""
BLOCKS_A_PART = 1 << 20
TASKS_A_PASS = 64
"""As many, where there are more parts: a task merges what its parts give, so that little comes back."""
MERGED_AT_ONCE = 8
_ROW = "\0row"
"""The column of each row's number, while rows lie in the object store; Ray Data cuts and joins blocks as it likes."""

T = TypeVar("T")
R = TypeVar("R")
Numbered = tuple[int, pa.Table]
Load = Callable[[int], Iterator[Numbered]]
"""The blocks of a part by the part's number; can be called again, on any machine."""


class Blocks(Protocol):
    """Rows in blocks; what is done to one gets its rows and its number."""

    def map(self, function: Callable[[pa.Table, int], pa.Table]) -> "Blocks":
        """What `function` makes of each block."""

    def collect(self, what: str, function: Callable[[pa.Table, int], R], merge: Callable[[Sequence[R]], R]) -> R | None:
        """What `function` returns of each block, merged in any order and grouping; None where there is no block.

        Args:
            what: names the pass in its progress.

        Raises:
            UserError: the one that `function` or the reading raised.
        """

    def together(self, keys: Sequence[str], block_bytes: int) -> "Blocks":
        """The rows in blocks of about so many bytes, those of equal keys in one; in no particular order."""

    def table(self) -> pa.Table:
        """All rows in this process; no columns where there was nothing to read them from."""


def of_parts(parts: Sequence[T], read: Callable[[T], Iterable[pa.Table]]) -> Load:
    """Loads what `read` yields of each part."""

    def load(part: int) -> Iterator[Numbered]:
        for place, block in enumerate(read(parts[part])):
            yield (part * BLOCKS_A_PART + place) * ROWS_A_BLOCK, block

    return load


class LocalBlocks:
    """Few enough rows for this process, which works on as many blocks at a time as it has CPUs."""

    def __init__(self, blocks: Iterable[Numbered]) -> None:
        self._blocks = [(number, block) for number, block in blocks if block.num_columns]

    @classmethod
    def loaded(cls, num_parts: int, load: Load) -> "LocalBlocks":
        """Of all parts."""
        loaded = _in_threads(lambda part: list(load(part)), range(num_parts))
        return cls(numbered for blocks in loaded for numbered in blocks)

    def map(self, function: Callable[[pa.Table, int], pa.Table]) -> "LocalBlocks":
        """What `function` makes of each block."""
        return LocalBlocks(_in_threads(lambda each: (each[0], function(each[1], each[0])), self._blocks))

    def collect(self, what: str, function: Callable[[pa.Table, int], R], merge: Callable[[Sequence[R]], R]) -> R | None:
        """What `function` returns of each block, merged."""
        progress, merged = Progress(what, len(self._blocks)), _Merged(merge)
        results = _in_threads(lambda each: function(each[1], each[0]), self._blocks)
        for (_, block), result in zip(self._blocks, results, strict=True):
            merged.add(result)
            progress.done(1, block.num_rows, block.nbytes)
        return merged.result()

    def together(self, keys: Sequence[str], block_bytes: int) -> "LocalBlocks":
        """All rows in one block."""
        return LocalBlocks([(0, self.table())])

    def table(self) -> pa.Table:
        """All rows."""
        return pa.concat_tables(block for _, block in self._blocks) if self._blocks else pa.table({})


class ClusterBlocks:
    """Rows of any number: each pass loads the blocks anew, task by task, so that memory holds those at work alone."""

    def __init__(self, num_parts: int, load: Load) -> None:
        self._num_parts, self._load = num_parts, load

    def kept(self) -> "ClusterBlocks":
        """The same, loaded once: into the object store, which spills to disk what does not fit."""
        load = self._load

        def numbered(part: int) -> Iterator[pa.Table]:
            for number, block in load(part):
                yield block.append_column(_ROW, pa.array(np.arange(number, number + block.num_rows)))

        return _in_store(blocks_of(each(range(self._num_parts), numbered)))

    def map(self, function: Callable[[pa.Table, int], pa.Table]) -> "ClusterBlocks":
        """What `function` makes of each block, each time it is loaded."""
        load = self._load

        def mapped(part: int) -> Iterator[Numbered]:
            for number, block in load(part):
                yield number, function(block, number)

        return ClusterBlocks(self._num_parts, mapped)

    def collect(self, what: str, function: Callable[[pa.Table, int], R], merge: Callable[[Sequence[R]], R]) -> R | None:
        """What `function` returns of each block, merged; where Ray runs it."""
        load = self._load

        def work(parts: str) -> Iterator[pa.Table]:
            first, end = map(int, parts.split())
            num_rows, num_bytes, merged = 0, 0, _Merged(merge)
            for part in range(first, end):
                for number, block in load(part):
                    if block.num_columns:
                        merged.add(function(block, number))
                        num_rows, num_bytes = num_rows + block.num_rows, num_bytes + block.nbytes
            yield pa.table(
                {
                    "num_parts": [end - first],
                    "num_rows": [num_rows],
                    "num_bytes": [num_bytes],
                    "result": pa.array([pickle.dumps(merged.result())], pa.large_binary()),
                }
            )

        step = max(1, self._num_parts // TASKS_A_PASS)
        tasks = [f"{first} {min(first + step, self._num_parts)}" for first in range(0, self._num_parts, step)]
        progress, merged = Progress(what, self._num_parts), _Merged(merge)
        try:
            for batch in each(tasks, work).iter_batches(batch_size=None, batch_format="pyarrow"):
                assert isinstance(batch, pa.Table)  # by its format
                for row in batch.to_pylist():
                    found = pickle.loads(row["result"])  # what our own task has pickled
                    if found is not None:
                        merged.add(found)
                    progress.done(row["num_parts"], row["num_rows"], row["num_bytes"])
        except RayError as error:
            raise user_error_in(error) or error from None
        return merged.result()

    def together(self, keys: Sequence[str], block_bytes: int) -> "ClusterBlocks":
        """The rows in blocks of about so many bytes, those of equal keys in one."""
        rows = self._rows().materialize()
        num_blocks = max(1, -(-int(rows.size_bytes()) // block_bytes))
        return _in_store(blocks_of(rows.repartition(num_blocks, keys=list(keys))))

    def table(self) -> pa.Table:
        """All rows in this process; no columns where there was nothing to read them from."""
        return as_table(self._rows())

    def _rows(self) -> Dataset:
        load = self._load

        def blocks(part: int) -> Iterator[pa.Table]:
            yield from (block for _, block in load(part))

        return each(range(self._num_parts), blocks)


def _in_store(references: "Sequence[ray.ObjectRef[pa.Table]]") -> ClusterBlocks:
    """Blocks that lie in the object store, by their own numbers where they have them."""

    def load(part: int) -> Iterator[Numbered]:
        rows = ray.get(references[part])
        if not rows.num_columns:  # nothing was yielded there
            return
        if _ROW not in rows.column_names:
            yield part * BLOCKS_A_PART * ROWS_A_BLOCK, rows
            return
        numbers = rows.column(_ROW).to_numpy()
        starts = np.flatnonzero(np.diff(numbers // ROWS_A_BLOCK, prepend=-1))
        for start, end in pairwise([*starts, rows.num_rows]):
            yield int(numbers[start]), rows.slice(start, end - start).drop_columns([_ROW])

    return ClusterBlocks(len(references), load)


class _Merged(Generic[R]):
    """Results as they come, merged some at a time, so that few of them are held."""

    def __init__(self, merge: Callable[[Sequence[R]], R]) -> None:
        self._merge = merge
        self._held: list[R] = []

    def add(self, result: R) -> None:
        self._held.append(result)
        if len(self._held) == MERGED_AT_ONCE:
            self._held = [self._merge(self._held)]

    def result(self) -> R | None:
        """Of all of them; None of none."""
        return self._merge(self._held) if self._held else None


def _in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What `function` returns of each item, in their order; Arrow and NumPy work without Python's lock."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        yield from threads.map(function, items)
