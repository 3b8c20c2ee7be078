"""History: what a group's earlier rows held, as a list in each row."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from cluster.errors import SpecError
from cluster.spec import Spec
from jobs.features.arrays import one_array
from jobs.features.step import put

_LARGEST = float(np.finfo(np.float32).max)


class HistorySpec(Spec):
    """A list for each row: the last values of a column before it, the oldest first."""

    column: str
    """Of numbers; a missing one is left out and does not count."""
    group: str
    """Rows of the same value are each other's past."""
    time: str
    """Rows of the same moment do not see each other."""
    output: str
    size: int = Field(ge=1)
    """Values at most."""
    within_s: int | None = Field(None, ge=1)
    """Only rows that are at most so many seconds older."""


def history_group(specs: Sequence[HistorySpec]) -> str | None:
    """The column whose equal values must lie in one table; None without a history.

    Raises:
        SpecError: they name several.
    """
    groups = sorted({spec.group for spec in specs})
    if len(groups) > 1:
        raise SpecError(
            f"prepare.history names the groups {', '.join(groups)}, but rows can be gathered by one only; "
            "give all of them the same group"
        )
    return groups[0] if groups else None


def with_history(table: pa.Table, specs: Sequence[HistorySpec], ties: Sequence[str]) -> pa.Table:
    """The rows in their order, with the column `output` of each spec; numbers beyond float32 become its largest.

    Args:
        table: all rows of each group that it holds any of; no group or moment is missing.
        ties: columns that order rows of the same moment, so that the lists do not depend on the input's order.
    """
    history_group(specs)
    made = {spec.output: _lists(table, spec, ties) for spec in specs}
    for name, lists in made.items():
        table = put(table, name, lists)
    return table


def _lists(table: pa.Table, spec: HistorySpec, ties: Sequence[str]) -> pa.Array:
    by = [(name, "ascending") for name in dict.fromkeys((spec.group, spec.time, *ties))]
    order = pc.sort_indices(table, by).to_numpy()
    groups = one_array(table.column(spec.group)).dictionary_encode().indices.to_numpy()[order]
    times = table.column(spec.time).to_numpy()[order]
    values = table.column(spec.column).cast(pa.float64()).to_numpy()[order]
    is_new_group = np.append(True, groups[1:] != groups[:-1])[: len(order)]
    is_new_moment = is_new_group | np.append(True, times[1:] != times[:-1])[: len(order)]
    is_known = ~np.isnan(values)
    num_known = np.append(0, np.cumsum(is_known))  # before each row
    ends = num_known[_starts(is_new_moment)]
    oldest = _starts(is_new_group)
    if spec.within_s is not None:
        oldest = np.maximum(oldest, _first_since(is_new_group, times, spec.within_s))
    begins = np.minimum(np.maximum(num_known[oldest], ends - spec.size), ends)
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    known = np.clip(values[is_known], -_LARGEST, _LARGEST).astype(np.float32)
    return _slices(known, begins[back], ends[back])


def _starts(is_start: np.ndarray) -> np.ndarray:
    """Where the run of each row starts."""
    starts: np.ndarray = np.maximum.accumulate(np.where(is_start, np.arange(len(is_start)), 0))
    return starts


def _first_since(is_new_group: np.ndarray, times: np.ndarray, seconds: int) -> np.ndarray:
    """The first row of each row's group that is at most so many seconds older; rows are by group and time."""
    groups = np.tile(np.cumsum(is_new_group), 2)
    moments = np.append(times - seconds, times)
    is_row = np.repeat([False, True], len(times))
    order = np.lexsort((is_row, moments, groups))
    rows_before = np.cumsum(is_row[order])
    asked = ~is_row[order]
    first: np.ndarray = np.empty(len(times), np.int64)
    first[order[asked]] = rows_before[asked]
    return first


def _slices(values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
    offsets = np.append(0, np.cumsum(ends - begins))
    places = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], ends - begins)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values[places], pa.float32()))
