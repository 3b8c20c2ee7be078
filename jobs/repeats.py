"""Rows that speak of the same thing: of those that share their key one stays, without a row leaving its block.

What goes round is 8 bytes a row, a hash of its key; only of rows whose hash is there twice is more looked at.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from jobs.blocks import Blocks
from jobs.features.row_hash import SECOND, row_hashes

_FIRST_BITS = 22
_SHARE_BITS = 3


def key_hashes(rows: pa.Table, keys: Sequence[str]) -> np.ndarray:
    """A hash a row of its key [rows] uint64."""
    return row_hashes([rows.column(key) for key in keys])


def repeated(hashes: Sequence[np.ndarray]) -> np.ndarray:
    """The hashes that are there more than once, in rising order. Besides them it holds a share for each CPU."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:  # NumPy works without Python's lock
        return np.concatenate(list(threads.map(lambda share: _repeated_of(hashes, share), range(1 << _SHARE_BITS))))


def _repeated_of(hashes: Sequence[np.ndarray], share: int) -> np.ndarray:
    """The same of those whose first bits are `share`."""
    parts = [part[part >> np.uint64(64 - _SHARE_BITS) == share] for part in hashes]
    own = np.concatenate([np.array([], np.uint64), *parts])
    own.sort()
    repeated: np.ndarray = np.unique(own[1:][own[1:] == own[:-1]])
    return repeated


def losers(
    rows: Blocks, candidates: np.ndarray, keys: Sequence[str], time: str | None, what: str
) -> dict[int, np.ndarray]:
    """The places of the rows to leave out, by the number of their block.

    The latest row of a key stays. Of several rows of that moment, or where there is no column `time`, it is the one
    with the greatest hash of all that it says: the choice does not depend on the order of the rows.

    Args:
        candidates: hashes of keys that may be there more than once, in rising order.
    """

    def claims(block: pa.Table, number: int) -> pa.Table:
        return _claims(block, number, candidates, keys, time)

    found = rows.collect(what, claims, pa.concat_tables)
    if found is None:
        return {}
    lost = found.take(pa.array(_behind(found)))
    numbers, places = lost.column("number").to_numpy(), lost.column("place").to_numpy()
    return {int(number): np.sort(places[numbers == number]) for number in np.unique(numbers)}


def _claims(block: pa.Table, number: int, candidates: np.ndarray, keys: Sequence[str], time: str | None) -> pa.Table:
    """Of each row with one of these hashes: its key, its moment, a hash of all that it says, and where it is."""
    hashes = key_hashes(block, keys)
    places = _places_of(candidates, hashes)
    rows = block.take(pa.array(places))
    moments = rows.column(time).to_numpy() if time else np.zeros(len(places), np.int64)
    return pa.table(
        {
            "hash": pa.array(hashes[places]),
            "second": pa.array(row_hashes([rows.column(key) for key in keys], seed=SECOND)),
            "time": pa.array(moments, pa.int64()),
            "content": pa.array(row_hashes([_as_text(rows.column(name)) for name in rows.column_names])),
            "number": pa.array(np.full(len(places), number, np.int64)),
            "place": pa.array(places, pa.int64()),
        }
    )


def _places_of(candidates: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Where `hashes` are among the candidates, which are in rising order. Most are ruled out by their first bits."""
    is_seen = np.zeros(1 << _FIRST_BITS, bool)
    is_seen[candidates >> np.uint64(64 - _FIRST_BITS)] = True
    places = np.flatnonzero(is_seen[hashes >> np.uint64(64 - _FIRST_BITS)])
    if not len(places):
        return places
    nearest = np.minimum(np.searchsorted(candidates, hashes[places]), len(candidates) - 1)
    found: np.ndarray = places[candidates[nearest] == hashes[places]]
    return found


def _behind(claims: pa.Table) -> np.ndarray:
    """The numbers of the claims that are not the best of their key."""
    column = {name: claims.column(name).to_numpy() for name in claims.column_names}
    best_last = (-column["place"], -column["number"], column["content"], column["time"])
    order = np.lexsort((*best_last, column["second"], column["hash"]))
    same_as_next = np.append(
        (column["hash"][order][1:] == column["hash"][order][:-1])
        & (column["second"][order][1:] == column["second"][order][:-1]),
        False,
    )
    behind: np.ndarray = order[same_as_next[: len(order)]]
    return behind


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """What Arrow cannot write as text, such as lists, as Python writes it."""
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return pa.chunked_array([pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())])
    return column
