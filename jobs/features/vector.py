"""Vector: lists of numbers that all have one length, as a model takes them."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import DataError
from jobs.features.arrays import one_array
from jobs.features.split import TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind


class Vector(Step):
    """The lists of the training rows' length; one that is missing or of another length becomes zeros."""

    kind: Literal["vector"] = "vector"
    column: str
    output: str

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The lists."""
        return {self.column: "numbers"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The lists, none missing."""
        return {self.output: "numbers"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """Each `length` that there is."""
        return pa.table({"length": pc.list_value_length(train.table.column(self.column)).drop_null().unique()})

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """Each length that there is in any part, in rising order."""
        return pa.concat_tables(parts).group_by("length").aggregate([]).sort_by("length")

    def fitted(self, statistics: pa.Table) -> "Vector":
        """The step of this length.

        Raises:
            DataError: the training rows have lists of several lengths, or none.
        """
        lengths = statistics.column("length").to_pylist()
        if len(lengths) != 1:
            found = f"lists of {', '.join(map(str, lengths))} entries" if lengths else "no list"
            raise DataError(
                f"column '{self.column}' has {found} in the training rows, a vector is of one length; "
                "let a step such as one_hot or bag_of_words make it"
            )
        return self.with_length(lengths[0])

    @property
    def takes_length_of(self) -> str:
        """The lists."""
        return self.column

    def with_length(self, length: int) -> "Vector":
        """The step of this length."""
        return self.with_state(pa.table({"length": pa.array([length], pa.int32())}))

    @property
    def length(self) -> int:
        """Of the lists."""
        return self.size

    def apply(self, table: pa.Table) -> pa.Table:
        """Lists of float32."""
        column = one_array(table.column(self.column))
        if not column.null_count and pc.all(pc.equal(pc.list_value_length(column), self.size)).as_py():
            return put(table, self.output, column)
        fits = pc.fill_null(pc.equal(pc.list_value_length(column), self.size), False).to_numpy(zero_copy_only=False)
        values = np.zeros((table.num_rows, self.size), np.float32)
        values[fits] = column.filter(pa.array(fits)).flatten().to_numpy().reshape(-1, self.size)
        offsets = pa.array(np.arange(table.num_rows + 1) * self.size, pa.int32())
        return put(table, self.output, pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1))))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A list."""
        value = row[self.column]
        return {self.output: value if value is not None and len(value) == self.size else [0.0] * self.size}

    def told(self) -> str:
        """The length."""
        return f"{self.column}: {self.size} entries"

    @cached_property
    def size(self) -> int:
        """How many entries each list has."""
        return int(self.state().column("length")[0].as_py())
