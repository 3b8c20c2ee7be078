"""Smote: synthetic rows of a label that is too rare (Chawla, Bowyer, Hall and Kegelmeyer, 2002)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from cluster.errors import DataError
from jobs.features.arrays import one_array
from jobs.features.row_hash import as_shares, row_hashes
from jobs.features.split import SPLIT, TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind

MAX_SAMPLE = 16_384
"""Rows of a label among which neighbours are looked for: those with the lowest hashes of their keys."""


class Smote(Step):
    """Adds training rows of the minority, each between one that is there and one of its nearest neighbours.

    A synthetic row of the key `k` has the key `k~1`, `k~2` and so on; columns other than `columns` are those of the
    row it is made from. Whole numbers become fractions. Rows in which a number is missing count, but have no synthetic
    rows. What is made depends on the key and the sample alone, not on how the rows are cut into blocks.
    """

    kind: Literal["smote"] = "smote"
    columns: tuple[str, ...] = Field(min_length=1)
    label: str
    key: str
    """A column that tells rows apart."""
    minority: str = ""
    """A label; left out the rarest."""
    ratio: float = Field(1.0, gt=0)
    """Rows of the minority for each one of the most frequent label. Exact to a row, except that from 16,384 extra rows
    on, beyond what all minority rows get alike, it holds within statistical error."""
    num_neighbors: int = Field(5, ge=1)

    @property
    def adds(self) -> bool:
        """Always."""
        return True

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The numbers, the label and the key."""
        return {**dict.fromkeys(self.columns, "number"), self.label: "text", self.key: "text"}

    @property
    def reads_served(self) -> dict[str, ColumnKind]:
        """Nothing."""
        return {}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """Nothing in the rows that are there."""
        return {}

    def statistics(self, train: TrainRows) -> pa.Table:
        """A row for each label, with how many rows and how many complete ones it has, and a sample of the latter."""
        table = train.table
        labels = one_array(table.column(self.label).cast(pa.string()))
        numbers, hashes = self._numbers(table), row_hashes([table.column(self.key)])
        is_complete = ~np.isnan(numbers).any(axis=1)
        counts = pa.table(
            {"label": labels, "count": np.ones(len(labels), np.int64), "complete": is_complete.astype(np.int64)}
        )
        sampled = pc.and_(pa.array(is_complete), self._may_be_minority(labels)).to_numpy(zero_copy_only=False)
        sample = pa.table(
            {
                "label": labels.filter(pa.array(sampled)),
                "hash": pa.array(hashes[sampled], pa.uint64()),
                "values": _lists(numbers[sampled]),
            }
        )
        return _merged([pa.concat_tables([counts.filter(pc.is_valid(labels)), sample], promote_options="default")])

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The counts of several parts as one, and the rows of each label with the lowest hashes."""
        return _merged(parts)

    def fitted(self, statistics: pa.Table) -> Self:
        """The sample of the minority, and how many synthetic rows there will be.

        Raises:
            DataError: the minority has fewer than two complete rows.
        """
        counts = statistics.filter(pc.is_null(statistics.column("hash"))).sort_by(
            [("count", "ascending"), ("label", "ascending")]
        )
        found = {row["label"]: row for row in counts.select(["label", "count", "complete"]).to_pylist()}
        minority = self.minority or next(iter(found), "")
        rows = found.get(minority, {"count": 0, "complete": 0})
        if rows["complete"] < 2:
            raise DataError(
                f"smote: the label '{minority}' of '{self.label}' has {rows['complete']} training rows in which no "
                "number is missing, a synthetic row lies between two; give another minority, or impute before"
            )
        wanted = int(np.floor(max(row["count"] for row in found.values()) * self.ratio + 0.5)) - rows["count"]
        each, extra = divmod(max(wanted, 0), rows["complete"])
        sample = statistics.filter(
            pc.and_(pc.is_valid(statistics.column("hash")), pc.equal(statistics.column("label"), minority))
        ).sort_by("hash")
        hashes = sample.column("hash").to_numpy()
        # rows below this hash have one more; what the sample does not reach is taken by the share of all hashes
        bound = int(hashes[extra]) if extra < len(hashes) else int(extra / rows["complete"] * 2**64)
        state = {"minority": [minority], "each": [each], "bound": pa.array([bound], pa.uint64())}
        lists = {name: pa.array([sample.column(name).to_pylist()]) for name in ("values",)}
        return self.with_state(pa.table({**state, "hashes": pa.array([hashes], pa.list_(pa.uint64())), **lists}))

    def added(self, table: pa.Table) -> pa.Table:
        """The synthetic rows of the table's training rows."""
        state = self.state().to_pylist()[0] if table.num_rows else None
        is_base = pc.and_(pc.equal(table.column(SPLIT), "train"), pc.equal(table.column(self.label), self._minority))
        table = table.filter(is_base)
        numbers = self._numbers(table)
        is_complete = ~np.isnan(numbers).any(axis=1)
        table, numbers = table.filter(pa.array(is_complete)), numbers[is_complete]
        hashes = row_hashes([table.column(self.key)])
        if state is None or not len(hashes):
            return table.slice(0, 0)
        times = state["each"] + (hashes < np.uint64(state["bound"])).astype(np.int64)
        table, numbers = table.filter(pa.array(times > 0)), numbers[times > 0]
        hashes, times = hashes[times > 0], times[times > 0]
        if not len(times):
            return table
        base = np.repeat(np.arange(len(times)), times)
        ordinal = np.arange(len(base)) - np.repeat(np.cumsum(times) - times, times) + 1
        keys = pc.binary_join_element_wise(
            one_array(table.column(self.key).take(pa.array(base)).cast(pa.string())),
            pa.array(ordinal).cast(pa.string()),
            "~",
        )
        neighbors = self._neighbors(numbers, hashes)
        chosen = row_hashes([pa.chunked_array([keys])]) % np.uint64(neighbors.shape[1])
        gaps = as_shares(row_hashes([pa.chunked_array([keys])] * 2))[:, None]
        ends = self._sample[neighbors[base, chosen.astype(np.int64)]]
        values = numbers[base] * (1 - gaps) + ends * gaps
        rows = put(table.take(pa.array(base)), self.key, keys.cast(table.column(self.key).type))
        for place, name in enumerate(self.columns):
            rows = put(rows, name, pa.array(values[:, place]))
        return rows.cast(table.schema)

    def apply(self, table: pa.Table) -> pa.Table:
        """The table as it is."""
        return table

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing."""
        return {}

    def told(self) -> str:
        """What it adds to."""
        each = self.state().column("each")[0].as_py()
        return f"{self.label}={self._minority}: {each} to {each + 1} synthetic rows for each training row"

    @cached_property
    def _minority(self) -> str:
        return str(self.state().column("minority")[0].as_py())

    @cached_property
    def _hashes(self) -> np.ndarray:
        hashes: np.ndarray = one_array(self.state().column("hashes")).flatten().to_numpy()
        return hashes

    @cached_property
    def _sample(self) -> np.ndarray:
        values: np.ndarray = one_array(self.state().column("values")).flatten().flatten().to_numpy()
        return values.reshape(-1, len(self.columns))

    @cached_property
    def _scale(self) -> np.ndarray:
        spread: np.ndarray = self._sample.std(axis=0)
        return np.where(spread > 0, spread, 1.0)

    @cached_property
    def _nearest(self) -> Any:
        # a tree, since what brute force finds can depend on the rows that are asked for together
        from sklearn.neighbors import NearestNeighbors  # takes a second to import, which only these rows need

        return NearestNeighbors(algorithm="kd_tree").fit(self._sample / self._scale)

    def _neighbors(self, numbers: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """The places in the sample of each row's nearest neighbours [rows, neighbours], itself left out."""
        count = min(self.num_neighbors + 1, len(self._sample))
        found = self._nearest.kneighbors(numbers / self._scale, count, return_distance=False)
        is_self = self._hashes[found] == hashes[:, None]
        is_self[~is_self.any(axis=1), -1] = True
        neighbors: np.ndarray = found[~is_self].reshape(len(found), count - 1)
        return neighbors

    def _may_be_minority(self, labels: pa.Array) -> pa.Array:
        return pc.fill_null(pc.equal(labels, self.minority) if self.minority else pc.is_valid(labels), False)

    def _numbers(self, table: pa.Table) -> np.ndarray:
        columns = [table.column(name).cast(pa.float64()).to_numpy() for name in self.columns]
        return np.stack(columns, axis=1)


def _merged(parts: Sequence[pa.Table]) -> pa.Table:
    rows = pa.concat_tables(parts)
    is_sample = pc.is_valid(rows.column("hash"))
    sums = rows.filter(pc.invert(is_sample)).group_by("label").aggregate([("count", "sum"), ("complete", "sum")])
    counts = sums.rename_columns({"count_sum": "count", "complete_sum": "complete"}).sort_by("label")
    sample = rows.filter(is_sample).sort_by([("label", "ascending"), ("hash", "ascending")])
    ends = pc.run_end_encode(one_array(sample.column("label"))).run_ends.to_numpy()
    sizes = np.diff(ends, prepend=0)
    place = np.arange(sample.num_rows) - np.repeat(ends - sizes, sizes)
    sample = sample.filter(pa.array(place < MAX_SAMPLE))
    merged = pa.concat_tables([counts, sample], promote_options="default")
    return merged.select(["label", "count", "complete", "hash", "values"]).combine_chunks()


def _lists(numbers: np.ndarray) -> pa.Array:
    offsets = pa.array(np.arange(len(numbers) + 1) * numbers.shape[1], pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(numbers.reshape(-1), pa.float64()))
