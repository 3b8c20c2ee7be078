"""The files of prepared rows: a block's rows of one split each, named by the block, so that a second try writes the
same."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.storage import Storage
from jobs.features.split import SPLIT, SPLITS

ROW_GROUP_ROWS = 4096
"""Rows of a file that are read together: few, since training takes pages of rows from all over a split."""


@dataclass(frozen=True)
class Written:
    """Files that were written."""

    num_rows: dict[str, int]
    """Of each split."""
    sha256: dict[str, str]
    """Of each file, by its path in the folder."""
    num_left_out: int = 0
    """Training rows that steps left out."""


def write_block(storage: Storage, folder: str, rows: pa.Table, number: int, columns: Collection[str] | None) -> Written:
    """Write a block's rows, those of a split next to each other.

    Args:
        columns: those that training and validation rows keep, all by default; test rows keep all.
    """
    num_rows, digests, start = {}, {}, 0
    for name in SPLITS:
        num_rows[name] = pc.sum(pc.equal(rows.column(SPLIT), name)).as_py() or 0
        of_split = rows.slice(start, num_rows[name]).drop_columns([SPLIT])
        start += num_rows[name]
        if name != "test" and columns is not None:
            of_split = of_split.select([column for column in of_split.column_names if column in columns])
        if num_rows[name]:
            content = as_parquet(of_split)
            digests[f"{name}/{number:018x}.parquet"] = hashlib.sha256(content).hexdigest()
            storage.write(f"{folder}/{name}/{number:018x}.parquet", content)
    return Written(num_rows, digests)


def merge_written(parts: Sequence[Written]) -> Written:
    """Several blocks' files as one."""
    return Written(
        {name: sum(part.num_rows[name] for part in parts) for name in SPLITS},
        {path: digest for part in parts for path, digest in part.sha256.items()},
        sum(part.num_left_out for part in parts),
    )


def as_parquet(rows: pa.Table) -> bytes:
    """The content of a file; numbers as they are, since looking for few different ones costs more than it saves."""
    text = [field.name for field in rows.schema if pa.types.is_string(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=ROW_GROUP_ROWS, use_dictionary=text)
    return bytes(sink.getvalue().to_pybytes())
