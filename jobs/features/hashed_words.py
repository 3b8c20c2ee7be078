"""Hashed words: a text's terms in a fixed number of entries, with nothing to learn (Weinberger et al., 2009)."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from jobs.features.row_hash import row_hashes, text_hash
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind
from jobs.features.words import terms_of, terms_of_all


class HashedWords(Step):
    """Each term is added to one entry, or taken from it, by its hash, so that terms that share one cancel out on
    average. A missing text has no terms."""

    kind: Literal["hashed_words"] = "hashed_words"
    column: str
    output: str
    num_features: int = Field(ge=1)
    ngrams: tuple[int, int] = (1, 1)
    """Terms are runs of so many words, from the one to the other."""
    lower: bool = True
    """Whether capital letters count as small ones."""

    @model_validator(mode="after")
    def _has_runs(self) -> Self:
        if not 1 <= self.ngrams[0] <= self.ngrams[1]:
            raise ValueError(f"ngrams={list(self.ngrams)} is no range of numbers of words; give such as [1, 2]")
        return self

    @property
    def learns(self) -> bool:
        """Nothing."""
        return False

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The text."""
        return {self.column: "text"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The entries."""
        return {self.output: "numbers"}

    def apply(self, table: pa.Table) -> pa.Table:
        """Lists of float32."""
        rows, terms = terms_of_all(table.column(self.column).to_pylist(), self.lower, self.ngrams)
        hashes = row_hashes([pa.chunked_array([terms])])
        entries = np.zeros((table.num_rows, self.num_features), np.float32)
        signs = np.where(hashes >> np.uint64(63), 1.0, -1.0)
        np.add.at(entries, (rows, (hashes % np.uint64(self.num_features)).astype(np.int64)), signs)
        offsets = pa.array(np.arange(table.num_rows + 1) * self.num_features, pa.int32())
        return put(table, self.output, pa.ListArray.from_arrays(offsets, pa.array(entries.reshape(-1))))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A list of numbers."""
        entries = [0.0] * self.num_features
        for term in terms_of(row[self.column], self.lower, self.ngrams):
            number = text_hash(term)
            entries[number % self.num_features] += 1.0 if number >> 63 else -1.0
        return {self.output: entries}
