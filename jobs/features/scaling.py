"""Scaling: numbers less their mean, divided by their standard deviation, both of the training rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from jobs.features.split import TrainRows


@dataclass(frozen=True)
class Scaling:
    """`column` -> `output`, float32: of a number, or of a list of numbers of one length. What is missing stays so.

    A list is made of `groups` stretches of one length, such as the channels of an image, each with a mean and a
    standard deviation of its own. Numbers that are all the same become 0.
    """

    kind: ClassVar[str] = "scaling"

    column: str
    output: str
    groups: int = 1
    mean: tuple[float, ...] = ()
    """Of each group; empty until fitted."""
    sd: tuple[float, ...] = ()

    def statistics(self, train: TrainRows) -> pa.Table:
        """Of each group its `count`, its `mean` and `m2`, the sum of squared differences from the mean."""
        known = train.table.column(self.column).drop_null().combine_chunks()
        count, mean, m2 = np.zeros(self.groups, np.int64), np.zeros(self.groups), np.zeros(self.groups)
        if len(known):
            values = _matrix(known).reshape(len(known), self.groups, -1)
            count += values.shape[0] * values.shape[2]
            mean = values.mean(axis=(0, 2))
            m2 = np.square(values - mean[:, None]).sum(axis=(0, 2))
        return pa.table({"count": count, "mean": mean, "m2": m2})

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The statistics of several parts as one (Chan, Golub and LeVeque, 1979)."""
        return reduce(_merged, parts)

    def fitted(self, statistics: pa.Table) -> "Scaling":
        """The scaling of these statistics, in single precision: too coarse to show how the rows were parted."""
        count, m2 = statistics.column("count").to_numpy(), statistics.column("m2").to_numpy()
        sd = np.sqrt(m2 / np.maximum(count, 1)).astype(np.float32)
        mean = statistics.column("mean").to_numpy().astype(np.float32)
        return self.with_state(pa.table({"mean": mean, "sd": np.where(sd > 0, sd, np.float32(1))}))

    def apply(self, table: pa.Table) -> pa.Table:
        """Append `output`."""
        column = table.column(self.column).combine_chunks()
        known = column.drop_null()
        scaled = self._scaled(_matrix(known))
        values = pa.array(scaled.reshape(-1), pa.float32())
        if pa.types.is_list(column.type):
            values = pa.ListArray.from_arrays(pa.array(np.arange(len(known) + 1) * scaled.shape[1], pa.int32()), values)
        is_null = column.is_null().to_numpy(zero_copy_only=False)
        return table.append_column(self.output, values.take(pa.array(np.cumsum(~is_null) - 1, mask=is_null)))

    def apply_row(self, row: Mapping[str, Any]) -> Any:
        """The `output` of one row: a number, a list of them, or None."""
        value = row[self.column]
        if value is None:
            return None
        scaled = self._scaled(np.atleast_1d(np.asarray(value, np.float64))[None])[0]
        return scaled.tolist() if isinstance(value, list) else float(scaled[0])

    def settings(self) -> dict[str, Any]:
        """What the constructor takes besides the fitted state."""
        return {"column": self.column, "output": self.output, "groups": self.groups}

    def state(self) -> pa.Table:
        """What was fitted, for `with_state`."""
        return pa.table({"mean": pa.array(self.mean, pa.float32()), "sd": pa.array(self.sd, pa.float32())})

    def with_state(self, state: pa.Table) -> "Scaling":
        """This scaling with what was fitted before."""
        return replace(self, mean=tuple(state.column("mean").to_pylist()), sd=tuple(state.column("sd").to_pylist()))

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        """[rows, entries] -> the same, scaled, float32."""
        width = values.shape[1] // self.groups
        mean, sd = np.repeat(self.mean, width), np.repeat(self.sd, width)
        scaled: np.ndarray = ((values - mean) / sd).astype(np.float32)
        return scaled


def _matrix(known: pa.Array) -> np.ndarray:
    """Numbers as [rows, 1], lists of them as [rows, entries], float64."""
    flat = known.flatten() if pa.types.is_list(known.type) else known
    entries = len(flat) // max(len(known), 1)
    values: np.ndarray = flat.to_numpy().astype(np.float64).reshape(len(known), entries)
    return values


def _merged(left: pa.Table, right: pa.Table) -> pa.Table:
    (n_left, mean_left, m2_left), (n_right, mean_right, m2_right) = (
        [table.column(name).to_numpy() for name in ("count", "mean", "m2")] for table in (left, right)
    )
    count, apart = n_left + n_right, mean_right - mean_left
    share = n_right / np.maximum(count, 1)
    return pa.table(
        {
            "count": count,
            "mean": mean_left + apart * share,
            "m2": m2_left + m2_right + np.square(apart) * n_left * share,
        }
    )
