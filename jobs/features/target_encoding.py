"""Target encoding: what the target is like where a category is, without a row's own target in it.

The mean of a category is drawn toward that of all rows by `smoothing` rows of it (Micci-Barreca, 2001). A training row
gets the mean of the other folds, so that it cannot learn its own target from it; all other rows get that of all folds.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.features.row_hash import row_hashes
from jobs.features.split import SPLIT, TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind

ALL = -1
"""The fold that stands for all of them."""


class TargetEncoding(Step):
    """The share of rows whose target is `positive` among those of the category; a category that training did not show,
    or a missing one, gets the share among all."""

    kind: Literal["target_encoding"] = "target_encoding"
    column: str
    output: str
    target: str
    """A column of categories, such as the label."""
    positive: str
    """The target whose share is taken."""
    key: str
    """A column that tells rows apart; its hash says which fold a row is in."""
    smoothing: float = Field(10.0, ge=0)
    """Rows of the overall share that are added to each category."""
    num_folds: int = Field(5, ge=2)

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The category; in training also the target and the key."""
        return {self.column: "text", self.target: "text", self.key: "text"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The share."""
        return {self.output: "number"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """Of each category and fold how many rows have a target, and how many the positive one."""
        known = train.table.filter(train.table.column(self.target).is_valid())
        rows = pa.table(
            {
                "value": known.column(self.column).cast(pa.string()),
                "fold": pa.array(self._folds(known), pa.int32()),
                "positive": pc.equal(known.column(self.target), self.positive).cast(pa.int64()),
            }
        )
        counted = rows.group_by(["value", "fold"]).aggregate([("positive", "count"), ("positive", "sum")])
        return counted.rename_columns({"positive_count": "count", "positive_sum": "positive"})

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The counts of several parts as one."""
        merged = pa.concat_tables(parts).group_by(["value", "fold"]).aggregate([("count", "sum"), ("positive", "sum")])
        return merged.rename_columns({"count_sum": "count", "positive_sum": "positive"})

    def fitted(self, statistics: pa.Table) -> Self:
        """The step of these counts: each category's share without each fold, and of all folds."""
        in_order = statistics.sort_by([("value", "ascending"), ("fold", "ascending")])
        values = in_order.column("value").combine_chunks().dictionary_encode()
        places = values.indices.fill_null(len(values.dictionary)).to_numpy()
        shape = (len(values.dictionary) + 1, self.num_folds)
        counts, positives = np.zeros(shape), np.zeros(shape)
        folds = in_order.column("fold").to_numpy()
        counts[places, folds] = in_order.column("count").to_numpy()
        positives[places, folds] = in_order.column("positive").to_numpy()
        columns = {"value": pa.concat_arrays([values.dictionary.cast(pa.string()), pa.nulls(1, pa.string())])}
        for fold in range(ALL, self.num_folds):
            columns[f"share{fold}"] = pa.array(self._shares(counts, positives, fold))
        return self.with_state(pa.table(columns))

    def apply(self, table: pa.Table) -> pa.Table:
        """float64."""
        column = table.column(self.column).combine_chunks()
        values = self._state.column("value").combine_chunks().slice(0, len(self._state) - 1)
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
        """The overall share and how many categories there are."""
        return f"{self.column}: {self._of_none:.4g} are '{self.positive}'; {len(self._of_all):,} categories"

    def _folds(self, table: pa.Table) -> np.ndarray:
        """The fold of each row [rows]."""
        folds: np.ndarray = (row_hashes([table.column(self.key)]) % np.uint64(self.num_folds)).astype(np.int32)
        return folds

    def _shares(self, counts: np.ndarray, positives: np.ndarray, left_out: int) -> np.ndarray:
        """The share of each category, then that of what is not among them [categories + 1]."""
        kept = [fold for fold in range(self.num_folds) if fold != left_out]
        num_rows, num_positive = counts[:, kept].sum(1), positives[:, kept].sum(1)
        overall = num_positive.sum() / max(num_rows.sum(), 1)
        weights = num_rows + self.smoothing
        shares: np.ndarray = (num_positive + self.smoothing * overall) / np.where(weights > 0, weights, 1)
        shares[weights == 0] = overall
        shares[-1] = overall
        return shares

    @cached_property
    def _table(self) -> np.ndarray:
        """[1 + folds, categories + 1]: first of all folds, then without each."""
        return np.stack([self._state.column(f"share{fold}").to_numpy() for fold in range(ALL, self.num_folds)])

    @cached_property
    def _of_all(self) -> dict[str, float]:
        values = self._state.column("value").to_pylist()[:-1]
        return dict(zip(values, self._state.column(f"share{ALL}").to_pylist(), strict=False))

    @property
    def _of_none(self) -> float:
        return float(self._table[0, -1])
