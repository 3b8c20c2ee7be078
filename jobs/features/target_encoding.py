"""Target encoding: what the target is like where a category is, without a row's own target in it.

The mean of a category is drawn toward that of all rows by `smoothing` rows of it (Micci-Barreca, 2001). A training row
gets the mean of the other folds, so that it cannot learn its own target from it; all other rows get that of all folds.

Targets of one power of two are added as whole numbers, as in `moments`, so the sums do not depend on the parts.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.features.arrays import one_array
from jobs.features.row_hash import row_hashes
from jobs.features.split import SPLIT, TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind

ALL = -1
"""The fold that stands for all of them."""
GROUPS = ("value", "fold", "power")
SUMS = ("count", "high", "low")
_MANTISSA_BITS = 53
_HALF_BITS = 27


class TargetEncoding(Step):
    """The mean of a target of numbers among the rows of the category, or the share of rows whose target is `positive`;
    a category that training did not show, or a missing one, gets that of all rows."""

    kind: Literal["target_encoding"] = "target_encoding"
    column: str
    output: str
    target: str
    """A column of numbers, or, where `positive` is given, of categories, such as the label."""
    positive: str = ""
    """The target whose share is taken."""
    key: str
    """A column that tells rows apart; its hash says which fold a row is in."""
    smoothing: float = Field(10.0, ge=0)
    """Rows of the overall mean that are added to each category."""
    num_folds: int = Field(5, ge=2)

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The category; in training also the target and the key."""
        return {self.column: "text", self.target: "text" if self.positive else "number", self.key: "text"}

    @property
    def reads_served(self) -> dict[str, ColumnKind]:
        """The category."""
        return {self.column: "text"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The mean."""
        return {self.output: "number"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """Of each category, fold and power of two: how many rows have a target, and its sum as in `moments`."""
        known = train.table.filter(train.table.column(self.target).is_valid())
        powers, highs, lows = _as_halves(self._targets(known))
        rows = {
            "value": known.column(self.column).cast(pa.string()),
            "fold": pa.array(self._folds(known), pa.int32()),
            "power": pa.array(powers, pa.int32()),
            "count": pa.array(np.ones(known.num_rows, np.int64)),
            "high": pa.array(highs),
            "low": pa.array(lows),
        }
        return self.merge([pa.table(rows)])

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """Added up exactly."""
        merged = pa.concat_tables(parts).group_by([*GROUPS]).aggregate([(name, "sum") for name in SUMS])
        return merged.rename_columns({f"{name}_sum": name for name in SUMS})

    def fitted(self, statistics: pa.Table) -> Self:
        """The step of these sums: each category's mean without each fold, and of all folds."""
        in_order = statistics.sort_by([(name, "ascending") for name in GROUPS])
        values = one_array(in_order.column("value")).dictionary_encode()
        places = values.indices.fill_null(len(values.dictionary)).to_numpy()
        cells = places.astype(np.int64) * self.num_folds + in_order.column("fold").to_numpy()
        shape = (len(values.dictionary) + 1, self.num_folds)
        counts, sums = (
            np.bincount(cells, numbers, shape[0] * shape[1]).reshape(shape)
            for numbers in (in_order.column("count").to_numpy(), _as_floats(in_order))
        )
        columns = {"value": pa.concat_arrays([values.dictionary.cast(pa.string()), pa.nulls(1, pa.string())])}
        for fold in range(ALL, self.num_folds):
            columns[f"mean{fold}"] = pa.array(self._means(counts, sums, fold))
        return self.with_state(pa.table(columns))

    def apply(self, table: pa.Table) -> pa.Table:
        """float64."""
        column = one_array(table.column(self.column))
        values = one_array(self._state.column("value")).slice(0, len(self._state) - 1)
        places = pc.index_in(column, values).fill_null(len(values)).to_numpy()
        folds = np.full(table.num_rows, ALL)
        if SPLIT in table.column_names:
            is_train = pc.equal(table.column(SPLIT), "train").to_numpy()
            folds[is_train] = self._folds(table.filter(pa.array(is_train)))
        return put(table, self.output, pa.array(self._table[folds - ALL, places]))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A number."""
        return {self.output: self._of_all.get(row[self.column], self._of_none)}

    def told(self) -> str:
        """The overall mean and how many categories there are."""
        what = f"are '{self.positive}'" if self.positive else f"is the mean of {self.target}"
        return f"{self.column}: {self._of_none:.4g} {what}; {len(self._of_all):,} categories"

    def _targets(self, known: pa.Table) -> np.ndarray:
        """The target of each row as a number [rows] float64."""
        column = known.column(self.target)
        numbers: np.ndarray = (
            (pc.equal(column, self.positive) if self.positive else column).cast(pa.float64()).to_numpy()
        )
        return numbers

    def _folds(self, table: pa.Table) -> np.ndarray:
        """The fold of each row [rows]."""
        folds: np.ndarray = (row_hashes([table.column(self.key)]) % np.uint64(self.num_folds)).astype(np.int32)
        return folds

    def _means(self, counts: np.ndarray, sums: np.ndarray, left_out: int) -> np.ndarray:
        """The mean of each category, then that of what is not among them [categories + 1]."""
        kept = [fold for fold in range(self.num_folds) if fold != left_out]
        num_rows, totals = counts[:, kept].sum(1), sums[:, kept].sum(1)
        overall = totals.sum() / max(num_rows.sum(), 1)
        weights = num_rows + self.smoothing
        means: np.ndarray = (totals + self.smoothing * overall) / np.where(weights > 0, weights, 1)
        means[weights == 0] = overall
        means[-1] = overall
        return means

    @cached_property
    def _table(self) -> np.ndarray:
        """[1 + folds, categories + 1]: first of all folds, then without each."""
        return np.stack([self._state.column(f"mean{fold}").to_numpy() for fold in range(ALL, self.num_folds)])

    @cached_property
    def _of_all(self) -> dict[str, float]:
        values = self._state.column("value").to_pylist()[:-1]
        return dict(zip(values, self._state.column(f"mean{ALL}").to_pylist(), strict=False))

    @property
    def _of_none(self) -> float:
        return float(self._table[0, -1])


def _as_floats(statistics: pa.Table) -> np.ndarray:
    """Each row's sum, rounded [rows] float64."""
    powers = statistics.column("power").to_numpy()
    highs, lows = (statistics.column(name).to_numpy().astype(float) for name in ("high", "low"))
    sums: np.ndarray = np.ldexp(highs, powers + _HALF_BITS) + np.ldexp(lows, powers)
    return sums


def _as_halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each value as (high * 2^27 + low) * 2^power: powers, highs and lows, whole numbers [rows]."""
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, _MANTISSA_BITS).astype(np.int64)
    powers = np.where(values == 0, 1, exponents) - _MANTISSA_BITS  # a share's zeros and ones have one power
    return powers, whole >> _HALF_BITS, whole & ((1 << _HALF_BITS) - 1)
