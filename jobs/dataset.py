"""Rows in whole Arrow blocks: of Ray Data, with bars instead of log lines, or, where they are few, in this process."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset
from ray.exceptions import RayError

from cluster.errors import UserError, user_error_in

READERS = 4
"""Files that one process reads at a time."""
T = TypeVar("T", int, str)
R = TypeVar("R")


class Blocks(Protocol):
    """Rows in blocks, in this process or in the cluster's object store."""

    @property
    def num_rows(self) -> int:
        """Of all blocks."""

    def together(self, keys: Sequence[str] | None, block_bytes: int) -> "Blocks":
        """The rows in blocks of about so many bytes, those of equal keys in one; without keys all rows in one."""

    def map(self, function: Callable[[pa.Table], pa.Table]) -> "Blocks":
        """What `function` makes of each block."""

    def collect(self, function: Callable[..., R], *shared: Any) -> list[R]:
        """What `function(block, *shared)` returns of each block, in their order."""

    def table(self) -> pa.Table:
        """All rows in this process; no columns where there was nothing to read them from."""


class LocalBlocks:
    """Few enough rows for this process."""

    def __init__(self, blocks: Sequence[pa.Table]) -> None:
        self._blocks = [block for block in blocks if block.num_columns]

    @classmethod
    def of_each(cls, items: Sequence[T], read: Callable[[T], Iterator[pa.Table]]) -> "LocalBlocks":
        """What `read` yields of every item, such as the path of a file."""
        with ThreadPoolExecutor(READERS) as threads:  # Arrow parses without Python's lock
            return cls([block for blocks in threads.map(lambda item: list(read(item)), items) for block in blocks])

    @property
    def num_rows(self) -> int:
        """Of all blocks."""
        return sum(block.num_rows for block in self._blocks)

    def together(self, keys: Sequence[str] | None, block_bytes: int) -> "LocalBlocks":
        """All rows in one block."""
        return LocalBlocks([self.table()])

    def map(self, function: Callable[[pa.Table], pa.Table]) -> "LocalBlocks":
        """What `function` makes of each block."""
        return LocalBlocks([function(block) for block in self._blocks])

    def collect(self, function: Callable[..., R], *shared: Any) -> list[R]:
        """What `function(block, *shared)` returns of each block, in their order."""
        return [function(block, *shared) for block in self._blocks]

    def table(self) -> pa.Table:
        """All rows."""
        return pa.concat_tables(self._blocks) if self._blocks else pa.table({})


class ClusterBlocks:
    """Rows in the object store, which spills to disk what does not fit."""

    def __init__(self, rows: Dataset) -> None:
        self._rows = rows.materialize()

    @classmethod
    def of_each(cls, items: Sequence[T], read: Callable[[T], Iterator[pa.Table]]) -> "ClusterBlocks":
        """What `read` yields of every item, such as the path of a file; one task an item."""
        return cls(each(items, read))

    @property
    def num_rows(self) -> int:
        """Of all blocks."""
        return int(self._rows.count())

    def together(self, keys: Sequence[str] | None, block_bytes: int) -> "ClusterBlocks":
        """The rows in blocks of about so many bytes, those of equal keys in one; without keys all rows in one."""
        if keys is None:
            return ClusterBlocks(self._rows.repartition(1))
        num_blocks = max(1, -(-int(self._rows.size_bytes()) // block_bytes))
        return ClusterBlocks(self._rows.repartition(num_blocks, keys=list(keys)))

    def map(self, function: Callable[[pa.Table], pa.Table]) -> "ClusterBlocks":
        """What `function` makes of each block as it lies."""
        return ClusterBlocks(
            self._rows.map_batches(function, batch_size=None, batch_format="pyarrow", zero_copy_batch=True)
        )

    def collect(self, function: Callable[..., R], *shared: Any) -> list[R]:
        """What `function(block, *shared)` returns of each block, in their order; where the block lies.

        Raises:
            UserError: the one that `function` raised.
        """
        references = [ray.put(value) for value in shared]
        task = ray.remote(function)
        try:
            return list(ray.get([task.remote(block, *references) for block in blocks_of(self._rows)]))
        except RayError as error:
            raise user_error_in(error) or error from None

    def table(self) -> pa.Table:
        """All rows in this process; no columns where there was nothing to read them from."""
        return as_table(self._rows)


class _ReadError(Exception):
    """Carries a user's error through Ray Data, which adds lines of its own to the message of what it is raised."""

    def __init__(self, cause: UserError) -> None:
        super().__init__(str(cause))
        self.cause = cause

    def __reduce__(self) -> tuple[type["_ReadError"], tuple[UserError]]:
        return _ReadError, (self.cause,)


def each(items: Sequence[T], read: Callable[[T], Iterator[pa.Table]], num_cpus: float = 1) -> Dataset:
    """What `read` yields of every item, such as the path of a file; one task an item, streaming."""

    def read_batch(batch: pa.Table) -> Iterator[pa.Table]:
        try:
            for item in batch.column("item").to_pylist():
                yield from read(item)
        except UserError as error:
            raise _ReadError(error) from None

    _show_progress_only()
    return ray.data.from_items(list(items)).map_batches(
        read_batch, batch_size=1, batch_format="pyarrow", zero_copy_batch=True, num_cpus=num_cpus
    )


def blocks_of(rows: Dataset) -> "list[ray.ObjectRef[pa.Table]]":
    """All rows in the object store, as the tables that they were read in."""
    return list(rows.to_arrow_refs())


def as_table(rows: Dataset) -> pa.Table:
    """All rows in this process; no columns where there was nothing to read them from.

    Raises:
        UserError: the one that reading a file raised.
    """
    try:
        blocks = [block for block in ray.get(blocks_of(rows)) if block.num_columns]  # none of an empty file
    except RayError as error:
        raise user_error_in(error) or error from None
    return pa.concat_tables(blocks) if blocks else pa.table({})


def _show_progress_only() -> None:
    """Progress bars on a terminal, none elsewhere; Ray Data's log lines, errors too, stay in its log file."""
    context = DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr):
            handler.setLevel(logging.CRITICAL)  # an error is raised as well, and told by who catches it
