"""Which of several rows that speak of the same thing stays."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def last_of_each(rows: pa.Table, keys: tuple[str, ...], time: str | None) -> pa.Table:
    """The latest row of each value of `keys`, sorted by them.

    Without a column `time` nothing says which row is newer: the one whose text sorts last stays, so that the choice
    does not depend on the order of the input.
    """
    ordered = rows.sort_by([(name, "ascending") for name in (*keys, *([time] if time else []))])
    if ordered.num_rows < 2:
        return ordered
    if time is None:
        ordered = _sorted_by_text(ordered, keys)
    return ordered.filter(pa.array(np.append(~_is_repeated(ordered, keys), True)))


def _is_repeated(ordered: pa.Table, keys: tuple[str, ...]) -> np.ndarray:
    """Whether the row after each row has the same keys [rows - 1]."""
    same = [pc.equal(column.slice(0, len(column) - 1), column.slice(1)) for column in map(ordered.column, keys)]
    repeated: np.ndarray = np.logical_and.reduce([column.to_numpy() for column in same])
    return repeated


def _sorted_by_text(ordered: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    """Rows of equal keys in the order of all that they say, written out."""
    repeated = _is_repeated(ordered, keys)
    shared = np.append(repeated, False) | np.append(False, repeated)
    if not shared.any():
        return ordered
    written = np.full(ordered.num_rows, "", object)
    written[shared] = [str(row) for row in ordered.filter(pa.array(shared)).to_pylist()]
    by = ordered.select(keys).append_column("\0written", pa.array(written, pa.string()))
    return ordered.take(pc.sort_indices(by, [(name, "ascending") for name in by.column_names]))
