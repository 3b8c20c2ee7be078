"""The beginning of a text as a row of tokens of fixed length: the one that begins it, its first ones, then filling."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from jobs.features.bpe import START
from jobs.features.step import Step, put_lists
from jobs.features.values import ColumnKind


class FirstTokens(Step):
    """`START`, then tokens, then `START` again until all lists are of one length; what does not fit is left out."""

    kind: Literal["first_tokens"] = "first_tokens"
    column: str
    output: str
    num_tokens: int = Field(ge=2)
    """Of every list."""
    of_bytes: bool = False
    """Whether the column is text, whose bytes are its tokens; if not, it has lists of tokens, as `bpe` makes them."""

    @property
    def learns(self) -> bool:
        """Nothing."""
        return False

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The text or its tokens."""
        return {self.column: "text" if self.of_bytes else "numbers"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The row of tokens."""
        return {self.output: "numbers"}

    @property
    def length(self) -> int:
        """That of every list."""
        return self.num_tokens

    def apply(self, table: pa.Table) -> pa.Table:
        """Lists of int32."""
        return put_lists(table, self.output, [self._row(value) for value in table.column(self.column).to_pylist()])

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A list of whole numbers."""
        return {self.output: self._row(row[self.column])}

    def _row(self, value: str | Iterable[float] | None) -> list[int]:
        given = value.encode() if isinstance(value, str) else value or ()
        first = [START, *map(int, given)][: self.num_tokens]
        return first + [START] * (self.num_tokens - len(first))
