"""Reading what prepare wrote: the rows of a split, whole or by number, and the fitted transform."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Storage
from jobs.features.split import SPLIT, TrainRows
from jobs.features.transform import Transform
from jobs.fixed_lists import as_lists

FOOTERS_AT_ONCE = 16
PROFILE = "profile.json"
FILES_AT_ONCE = 4


def read_split(storage: Storage, folder: str, split: str, order: tuple[str, ...]) -> pa.Table:
    """All rows of a split, sorted by `order`, which no two rows share: so row i is the same row wherever it is read."""
    paths = [info.path for info in storage.files(f"{folder}/{split}")]
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        table = pa.concat_tables(threads.map(lambda path: _read_file(storage, path), paths))
    return table.sort_by([(name, "ascending") for name in order]).combine_chunks()


def _read_file(storage: Storage, path: str) -> pa.Table:
    with storage.open(path) as file:
        return as_lists(pq.ParquetFile(file).read())


@dataclass(frozen=True)
class RowGroup:
    """Neighbouring rows of one file, which are read together."""

    path: str
    number: int
    """In its file."""
    num_rows: int
    num_bytes: int
    """Of its columns, before compression."""


@dataclass(frozen=True)
class Split:
    """The rows of a split by number: those of its files in the order of their names. Read only as they are taken."""

    storage: Storage
    groups: tuple[RowGroup, ...]
    unread: tuple[str, ...] = ()
    """Columns that are left out."""

    @cached_property
    def _starts(self) -> np.ndarray:
        """The number of each group's first row, and how many rows there are [groups + 1]."""
        return np.cumsum([0, *(group.num_rows for group in self.groups)])

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return int(self._starts[-1])

    @property
    def row_bytes(self) -> float:
        """Bytes of a row, before compression."""
        return sum(group.num_bytes for group in self.groups) / self.num_rows

    def take(self, rows: np.ndarray) -> pa.Table:
        """The rows of these numbers [rows] int64, in this order; reads the row groups that hold them."""
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        wanted = np.unique(groups)
        starts = np.cumsum([0, *(self.groups[group].num_rows for group in wanted)])
        places = starts[np.searchsorted(wanted, groups)] + rows - self._starts[groups]
        return pa.concat_tables(self._read([self.groups[group] for group in wanted])).combine_chunks().take(places)

    def _read(self, groups: list[RowGroup]) -> Iterator[pa.Table]:
        for path, of_file in groupby(groups, lambda group: group.path):
            with self.storage.open(path) as opened, pq.ParquetFile(opened, pre_buffer=True) as file:
                columns = [name for name in file.schema_arrow.names if name not in self.unread]
                yield as_lists(file.read_row_groups([group.number for group in of_file], columns))


def open_split(storage: Storage, folder: str, split: str, unread: tuple[str, ...] = ()) -> Split:
    """A split's rows by number, without the columns `unread`; reads the footers of its files."""

    def groups(path: str) -> list[RowGroup]:
        with storage.open(path) as file:
            footer = pq.read_metadata(file)
        found = [footer.row_group(number) for number in range(footer.num_row_groups)]
        return [RowGroup(path, number, group.num_rows, group.total_byte_size) for number, group in enumerate(found)]

    paths = sorted(info.path for info in storage.files(f"{folder}/{split}"))
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
        return Split(storage, tuple(group for found in threads.map(groups, paths) for group in found), unread)


def read_train(storage: Storage, folder: str, order: tuple[str, ...]) -> TrainRows:
    """The training rows, marked as such."""
    table = read_split(storage, folder, "train", order)
    return TrainRows(table.append_column(SPLIT, pa.array(["train"] * table.num_rows, pa.string())))


def read_transform(storage: Storage, folder: str) -> Transform:
    """The transform that was fitted on the training rows."""
    with storage.as_local(folder) as local:
        return Transform.load(local)


def read_profile(storage: Storage, folder: str) -> dict[str, Any]:
    """What each column of the training rows looks like."""
    train: dict[str, Any] = json.loads(storage.read(f"{folder}/{PROFILE}"))["train"]
    return train
