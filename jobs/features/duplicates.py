"""Duplicates: rows that say the same as another."""

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field

from jobs.features.leaving_out import LeavingOut
from jobs.features.row_hash import SECOND, row_hashes
from jobs.features.split import TrainRows
from jobs.features.values import ColumnKind


class Duplicates(LeavingOut):
    """Leaves out training rows whose values equal those of a row with a smaller key; missing equals missing.

    Values are compared by 128 bits of their hash.
    """

    kind: Literal["duplicates"] = "duplicates"
    columns: tuple[str, ...] = Field(min_length=1)
    """Of text; a number would have to be told from its text."""

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The texts and the key."""
        return {**dict.fromkeys(self.columns, "text"), self.key: "text"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """The `key` of each row and the two halves of its hash."""
        columns = [train.table.column(name) for name in self.columns]
        return pa.table(
            {
                "key": train.table.column(self.key).cast(pa.string()),
                "one": pa.array(row_hashes(columns), pa.uint64()),
                "two": pa.array(row_hashes(columns, seed=SECOND), pa.uint64()),
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

    def told(self) -> str:
        """How many rows are left out."""
        return f"{', '.join(self.columns)}: {len(self.left_out):,} duplicates among the training rows"
