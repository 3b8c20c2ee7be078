"""The files of prepared rows: a block's rows of one split each, named by the block, so that a second try writes the
same."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Storage
from jobs.features.split import SPLIT, SPLITS, rows_of
from jobs.features.survey import Survey, merge
from jobs.fixed_lists import as_bytes

ROW_GROUP_ROWS = 4096
"""Rows of a file that are read together: few, since training takes pages of rows from all over a split."""


@dataclass(frozen=True)
class Written:
    """What came of some blocks."""

    sha256: dict[str, str]
    """Of each file, by its path in the folder."""
    read: Survey
    """Of the rows before the first step."""
    surveys: dict[str, Survey]
    """Of each split's rows after the last."""
    num_left_out: int
    """Training rows that steps left out."""
    num_added: int
    """Training rows that steps made of others."""

    @property
    def num_rows(self) -> dict[str, int]:
        """Of each split."""
        return {name: found.num_rows for name, found in self.surveys.items()}


def merge_written(parts: Sequence[Written]) -> Written:
    """What came of several."""
    return Written(
        {path: digest for part in parts for path, digest in part.sha256.items()},
        merge([part.read for part in parts]),
        {name: merge([part.surveys[name] for part in parts]) for name in SPLITS},
        sum(part.num_left_out for part in parts),
        sum(part.num_added for part in parts),
    )


def by_split(rows: pa.Table) -> dict[str, pa.Table]:
    """The rows of each split."""
    return {name: rows_of(rows, name).drop_columns([SPLIT]) for name in SPLITS}


def write_block(storage: Storage, folder: str, rows: dict[str, pa.Table], number: int) -> dict[str, str]:
    """Write a block's rows by split; returns the SHA-256 of each file by its path in the folder."""
    digests = {}
    for name, of_split in rows.items():
        if of_split.num_rows:
            content = as_parquet(as_bytes(of_split))
            path = f"{name}/{number:018x}.parquet"
            digests[path] = hashlib.sha256(content).hexdigest()
            storage.write(f"{folder}/{path}", content)
    return digests


def as_parquet(rows: pa.Table) -> bytes:
    """The content of a file; numbers as they are, since looking for few different ones costs more than it saves."""
    text = [field.name for field in rows.schema if pa.types.is_string(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=ROW_GROUP_ROWS, use_dictionary=text)
    return bytes(sink.getvalue().to_pybytes())
