"""Which rows train, validate and test: by time, over all rows or within each key, by a hash, by group, or by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cluster.spec import Spec
from jobs.features.arrays import one_array
from jobs.features.row_hash import as_shares, row_hashes

SPLITS = ("train", "valid", "test")
SPLIT = "split"


class SplitSpec(Spec):
    """By time the latest rows test, the ones before them validate and the rest train; by hash it is left to chance."""

    by: Literal["time", "hash", "group", "stratified"] = "time"
    """By hash a row stays in its split for good, whatever rows are added; for rows that no time orders. So does a group
    of rows. Stratified, each class has the shares exactly."""
    valid: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)
    column: str | None = None
    """By time: the column of times that orders the rows, of a workload that has none of its own. By group: the column
    whose equal values share a split. Stratified: the column of classes."""
    within: str | None = None
    """A column: each of its values is split by time on its own, so that every user is seen in training.
    Without it, one moment in time parts all rows."""

    @model_validator(mode="after")
    def _leaves_a_rest(self) -> "SplitSpec":
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test = {self.valid + self.test:g} leaves nothing to train on; keep it below 1")
        if self.by == "hash" and self.column is not None:
            raise ValueError(f"column='{self.column}' orders rows by time; leave it out where by=hash")
        if self.by in ("group", "stratified") and self.column is None:
            what = "whose equal values share a split" if self.by == "group" else "of classes"
            raise ValueError(f"by={self.by} needs the column {what}; give column")
        if self.by != "time" and self.within is not None:
            raise ValueError(f"within='{self.within}' orders a column's rows by time; leave it out where by={self.by}")
        return self

    def told(self, keys: Sequence[str]) -> str:
        """By what rows are split, for people; `keys` tell rows apart."""
        if self.by == "group":
            return f"a hash of {self.column}"
        if self.by == "stratified":
            return f"a hash of {', '.join(keys)} within each {self.column}"
        if self.by == "hash":
            return f"a hash of {', '.join(keys)}"
        return f"time {f'within each {self.within}' if self.within else 'over all rows'}"

    @property
    def bounds(self) -> tuple[float, float]:
        """From which shares of the rows on they validate, and test."""
        return 1 - self.valid - self.test, 1 - self.test


@dataclass(frozen=True)
class TrainRows:
    """Rows of the training split; the only thing that a step can be fitted on."""

    table: pa.Table

    def __post_init__(self) -> None:
        if (pc.sum(pc.equal(self.table.column(SPLIT), "train")).as_py() or 0) != self.table.num_rows:
            foreign = set(pc.unique(self.table.column(SPLIT)).to_pylist()) - {"train"}
            raise ValueError(f"fit takes training rows only, these hold {sorted(map(str, foreign))}")

    @classmethod
    def of(cls, table: pa.Table) -> "TrainRows":
        """The training rows among `table`."""
        return cls(rows_of(table, "train"))


def rows_of(table: pa.Table, split: str) -> pa.Table:
    """The rows of a split; without a copy where they lie side by side."""
    is_of = pc.equal(table.column(SPLIT), split)
    num_rows = pc.sum(is_of).as_py() or 0
    start = max(pc.index(is_of, True).as_py(), 0)
    is_run = (pc.sum(is_of.slice(start, num_rows)).as_py() or 0) == num_rows
    return table.slice(start, num_rows) if is_run else table.filter(is_of)


def side_by_side(table: pa.Table) -> pa.Table:
    """The rows in their order, first those that train, then those that validate, then those that test."""
    places = pc.index_in(table.column(SPLIT), pa.array(SPLITS, pa.string())).to_numpy()
    return table.take(pa.array(np.argsort(places, kind="stable")))


def split_by_time(table: pa.Table, spec: SplitSpec, time: str, ties: tuple[str, ...]) -> pa.Table:
    """Add the column `split`, and sort by key and time.

    Args:
        table: all rows of each value of `spec.within` that it holds any of (all rows there are, without `within`).
        time: the column that orders the rows.
        ties: columns that order rows of the same moment, so that the result does not depend on the input's order.
    """
    keys = [spec.within] if spec.within else []
    table = table.sort_by([(name, "ascending") for name in (*keys, time, *ties)])
    return _split(table, spec, _position_within(table.column(spec.within) if spec.within else None, table.num_rows))


def split_by_hash(table: pa.Table, spec: SplitSpec, keys: tuple[str, ...]) -> pa.Table:
    """Add the column `split`, of each row by a hash of its values of `keys` alone.

    So rows with the same keys share a split, and the shares are those of the spec within statistical error.
    """
    return _split(table, spec, as_shares(row_hashes([table.column(key) for key in keys])))


def split_by_group(table: pa.Table, spec: SplitSpec) -> pa.Table:
    """Add the column `split`, of each row by a hash of its value of `spec.column` alone; missing ones are one group."""
    assert spec.column is not None  # SplitSpec has checked it
    return split_by_hash(table, spec, (spec.column,))


def with_split(table: pa.Table, places: np.ndarray) -> pa.Table:
    """Add the column `split` by the place of each row's in SPLITS."""
    return table.append_column(SPLIT, pa.array(SPLITS, pa.string()).take(pa.array(places)))


def _split(table: pa.Table, spec: SplitSpec, share: np.ndarray) -> pa.Table:
    """Add the column `split` by a number from 0 to 1 for each row."""
    return with_split(table, np.searchsorted(spec.bounds, share, side="right"))


def _position_within(keys: pa.ChunkedArray | None, num_rows: int) -> np.ndarray:
    """Where in its run of equal keys each row stands, 0 to 1, at the middle of its place.

    The first stands at 0, so that it trains even where there are too few rows for every split.
    """
    ends = np.array([num_rows]) if keys is None else pc.run_end_encode(one_array(keys)).run_ends.to_numpy()
    sizes = np.diff(ends, prepend=0)
    starts = ends - sizes
    share: np.ndarray = (np.arange(num_rows) - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)
    share[starts[sizes > 0]] = 0
    return share
