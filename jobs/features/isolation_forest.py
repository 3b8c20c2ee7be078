"""Isolation forest: rows that few random cuts set apart from the others (Liu, Ting and Zhou, 2008)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from cluster.errors import DataError
from jobs.features.row_hash import row_hashes
from jobs.features.split import TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind

SAMPLE_ROWS = 65_536
"""Of the training rows, which the threshold is found on; those of the smallest hashes of their values."""
HASH = "hash"


class IsolationForest(Step):
    """Takes for outliers the share `contamination` of training rows that are the easiest to set apart.

    A row in which a number is missing is no outlier. The forest is fitted by scikit-learn and kept as plain tables.
    """

    kind: Literal["isolation_forest"] = "isolation_forest"
    columns: tuple[str, ...] = Field(min_length=1)
    contamination: float = Field(0.01, gt=0, le=0.5)
    num_trees: int = Field(100, ge=1)
    seed: int = Field(0, ge=0)
    then: Literal["drop", "mark"] = "drop"
    """Leave out training rows that are outliers, or make a column of 1 and 0."""
    output: str = ""
    """Where marks go."""

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if (self.then == "mark") != bool(self.output):
            raise ValueError(f"then={self.then} and output='{self.output}': an output goes with then=mark alone")
        return self

    @property
    def leaves_out(self) -> bool:
        """Where outliers are dropped."""
        return self.then == "drop"

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The numbers."""
        return dict.fromkeys(self.columns, "number")

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The mark."""
        return {self.output: "number"} if self.output else {}

    def statistics(self, train: TrainRows) -> pa.Table:
        """A sample that depends on the rows' values alone: each different one with its hash."""
        values = train.table.select(list(dict.fromkeys(self.columns))).drop_null()
        hashes = row_hashes(values.columns)
        return _smallest(values.append_column(HASH, pa.array(hashes)))

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The sample of all parts together."""
        return _smallest(pa.concat_tables(parts))

    def fitted(self, statistics: pa.Table) -> Self:
        """The forest of this sample.

        Raises:
            DataError: every training row has a gap.
        """
        from sklearn.ensemble import IsolationForest as Forest  # takes a second to import, which only fitting needs

        if not statistics.num_rows:
            raise DataError(
                f"every training row lacks one of {', '.join(self.columns)}, so no forest can be fitted; "
                "impute them first, or take fewer columns"
            )
        forest = Forest(n_estimators=self.num_trees, contamination=self.contamination, random_state=self.seed)
        forest.fit(self._matrix(statistics))
        return self.with_state(_as_table(forest))

    def keeps(self, table: pa.Table) -> pa.Array:
        """Which rows are no outliers."""
        return pa.array(~self._are_outliers(table))

    def apply(self, table: pa.Table) -> pa.Table:
        """float64."""
        return put(table, self.output, pa.array(self._are_outliers(table).astype(float))) if self.output else table

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A number."""
        if not self.output:
            return {}
        values = [row[name] for name in self.columns]
        if None in values:
            return {self.output: 0.0}
        return {self.output: float(self._forest.are_outliers(np.array([values], np.float32))[0])}

    def told(self) -> str:
        """The size of the forest."""
        return f"{', '.join(self.columns)}: {self.num_trees} trees, {self.contamination:.2%} of training are outliers"

    def _are_outliers(self, table: pa.Table) -> np.ndarray:
        known = np.logical_and.reduce([table.column(name).is_valid().to_numpy() for name in self.columns])
        found = np.zeros(table.num_rows, bool)
        found[known] = self._forest.are_outliers(self._matrix(table.filter(pa.array(known))))
        return found

    def _matrix(self, table: pa.Table) -> np.ndarray:
        """[rows, columns] float32, as scikit-learn's trees compare."""
        return np.stack([table.column(name).to_numpy().astype(np.float32) for name in self.columns], axis=1)

    @cached_property
    def _forest(self) -> "_Forest":
        return _Forest.of(self.state())


@dataclass(frozen=True)
class _Forest:
    """All trees' nodes one after the other; a leaf is its own child."""

    roots: np.ndarray
    """[trees]"""
    features: np.ndarray
    """[nodes]: the column that is compared; and so on."""
    thresholds: np.ndarray
    lefts: np.ndarray
    rights: np.ndarray
    path_lengths: np.ndarray
    """How many cuts set a row in this leaf apart, on average of what is left in it."""
    longest: float
    """Path length at which the score is a half; 0 where the forest saw one row."""
    offset: float

    @classmethod
    def of(cls, state: pa.Table) -> "_Forest":
        return cls(
            roots=np.flatnonzero(state.column("is_root").to_numpy()),
            features=state.column("feature").to_numpy(),
            thresholds=state.column("threshold").to_numpy(),
            lefts=state.column("left").to_numpy(),
            rights=state.column("right").to_numpy(),
            path_lengths=state.column("path_length").to_numpy(),
            longest=state.column("longest")[0].as_py(),
            offset=state.column("offset")[0].as_py(),
        )

    def are_outliers(self, rows: np.ndarray) -> np.ndarray:
        """[rows, columns] float32 -> [rows] bool."""
        lengths = np.zeros(len(rows))
        for root in self.roots:
            nodes = np.full(len(rows), root)
            while True:
                is_left = rows[np.arange(len(rows)), self.features[nodes]] <= self.thresholds[nodes]
                children = np.where(is_left, self.lefts[nodes], self.rights[nodes])
                if np.array_equal(children, nodes):
                    break
                nodes = children
            lengths += self.path_lengths[nodes]
        shares = lengths / (len(self.roots) * self.longest) if self.longest else np.ones(len(rows))
        scores = -(2.0**-shares)
        outliers: np.ndarray = scores - self.offset < 0
        return outliers


def _as_table(forest: Any) -> pa.Table:
    """A fitted forest of scikit-learn, a row a node."""
    parts = []
    start = 0
    for tree in (estimator.tree_ for estimator in forest.estimators_):
        numbers = np.arange(tree.node_count)
        is_leaf = tree.children_left < 0
        lefts, rights = (np.where(is_leaf, numbers, side) + start for side in (tree.children_left, tree.children_right))
        lengths = _depths(tree) + _mean_path_length(tree.n_node_samples)
        columns = {
            "is_root": numbers == 0,
            "feature": np.where(is_leaf, 0, tree.feature),
            "threshold": tree.threshold,
            "left": lefts,
            "right": rights,
            "path_length": lengths,
        }
        parts.append(pa.table(columns))
        start += tree.node_count
    nodes = pa.concat_tables(parts)
    longest = float(_mean_path_length(np.array([forest.max_samples_]))[0])
    more = {"longest": longest, "offset": float(forest.offset_)}
    for name, value in more.items():
        nodes = nodes.append_column(name, pa.array(np.full(nodes.num_rows, value)))
    return nodes


def _depths(tree: Any) -> np.ndarray:
    """How many cuts lead to each node [nodes]; children come after their parents."""
    depths = np.zeros(tree.node_count)
    for node, (left, right) in enumerate(zip(tree.children_left, tree.children_right, strict=True)):
        if left >= 0:
            depths[[left, right]] = depths[node] + 1
    return depths


def _mean_path_length(num_rows: np.ndarray) -> np.ndarray:
    """Of an unsuccessful search in a binary tree of so many rows (equation 1 of the paper)."""
    counts = np.maximum(num_rows, 2).astype(float)
    lengths: np.ndarray = 2 * (np.log(counts - 1) + np.euler_gamma) - 2 * (counts - 1) / counts
    lengths[num_rows == 2] = 1
    lengths[num_rows < 2] = 0
    return lengths


def _smallest(rows: pa.Table) -> pa.Table:
    """The different rows of the smallest hashes, in the order of these."""
    names = rows.column_names
    return rows.group_by(names).aggregate([]).select(names).sort_by(HASH).slice(0, SAMPLE_ROWS)
