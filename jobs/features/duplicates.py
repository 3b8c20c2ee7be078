"""Duplicates: rows that say the same as another."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.features.row_hash import row_hashes
from jobs.features.split import TrainRows
from jobs.features.step import Step
from jobs.features.values import ColumnKind


class Duplicates(Step):
    """Leaves out training rows whose values equal those of a row with a smaller key; missing equals missing.

    Values are compared by 128 bits of their hash.
    """

    kind: Literal["duplicates"] = "duplicates"
    columns: tuple[str, ...] = Field(min_length=1)
    """Of text; a number would have to be told from its text."""
    key: str
    """A column that tells rows apart."""

    @property
    def leaves_out(self) -> bool:
        """Always."""
        return True

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The texts and the key."""
        return {**dict.fromkeys(self.columns, "text"), self.key: "text"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """Nothing."""
        return {}

    def statistics(self, train: TrainRows) -> pa.Table:
        """The `key` of each row and the two halves of its hash."""
        columns = [train.table.column(name) for name in self.columns]
        constant = pa.chunked_array([pa.array(["2"] * train.table.num_rows, pa.string())])
        return pa.table(
            {
                "key": train.table.column(self.key).cast(pa.string()),
                "one": pa.array(row_hashes(columns), pa.uint64()),
                "two": pa.array(row_hashes([constant, *columns]), pa.uint64()),
            }
        )

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """All rows, equal ones beside each other."""
        return pa.concat_tables(parts).sort_by([(name, "ascending") for name in ("one", "two", "key")])

    def fitted(self, statistics: pa.Table) -> Self:
        """The keys to leave out."""
        one, two = (statistics.column(name).to_numpy() for name in ("one", "two"))
        is_copy = np.append(False, (one[1:] == one[:-1]) & (two[1:] == two[:-1]))[: len(one)]
        return self.with_state(statistics.select(["key"]).filter(pa.array(is_copy)))

    def keeps(self, table: pa.Table) -> pa.Array:
        """Which rows are like none before them."""
        return pc.invert(pc.is_in(table.column(self.key), self._left_out))

    def apply(self, table: pa.Table) -> pa.Table:
        """The table as it is."""
        return table

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing."""
        return {}

    def told(self) -> str:
        """How many rows are left out."""
        return f"{', '.join(self.columns)}: {len(self._left_out):,} duplicates among the training rows"

    @cached_property
    def _left_out(self) -> pa.Array:
        return self.state().column("key").combine_chunks()
