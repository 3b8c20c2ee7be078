"""Hashing: a category as one of a fixed number of buckets, with nothing to learn (Weinberger et al., 2009)."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from jobs.features.row_hash import row_hashes, text_hash
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind


class Hashing(Step):
    """The number of a bucket, from 0 on; several categories may share one. Missing stays missing."""

    kind: Literal["hashing"] = "hashing"
    column: str
    output: str
    num_buckets: int = Field(ge=1, le=2**24)
    """At most what single precision counts to."""

    @property
    def learns(self) -> bool:
        """Nothing."""
        return False

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The category."""
        return {self.column: "text"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The bucket."""
        return {self.output: "number"}

    def apply(self, table: pa.Table) -> pa.Table:
        """float64."""
        column = table.column(self.column)
        buckets = (row_hashes([column]) % np.uint64(self.num_buckets)).astype(float)
        return put(table, self.output, pa.array(buckets, mask=column.is_null().to_numpy()))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A number or None."""
        value = row[self.column]
        return {self.output: None if value is None else float(text_hash(value) % self.num_buckets)}
