"""Ray Data as the stages use it: a task an item, whole Arrow blocks, bars instead of log lines."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset
from ray.exceptions import RayError

from cluster.errors import UserError, user_error_in

T = TypeVar("T", int, str)


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
