"""Which of a text's tokens stands for each of its words: the one that has the word's first character."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from jobs.features.step import Step, put_lists
from jobs.features.values import ColumnKind
from jobs.features.words import word_starts


class WordPlaces(Step):
    """Of each word, parted from the others by white space, the place of its token in what `first_tokens` makes.

    0, where the token that begins a text stands, for words that come too late to be read.
    """

    kind: Literal["word_places"] = "word_places"
    column: str
    """The text."""
    ends: str
    """The column of where its tokens end, as a tokenizer's `ends_output` has it."""
    output: str
    num_tokens: int = Field(ge=2)
    """That `first_tokens` keeps."""

    @property
    def learns(self) -> bool:
        """Nothing."""
        return False

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The text, and where its tokens end."""
        return {self.column: "text", self.ends: "numbers"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The places."""
        return {self.output: "numbers"}

    def apply(self, table: pa.Table) -> pa.Table:
        """Lists of int32."""
        both = zip(table.column(self.column).to_pylist(), table.column(self.ends).to_pylist(), strict=True)
        return put_lists(table, self.output, [self._places(text, ends) for text, ends in both])

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A list of whole numbers."""
        return {self.output: self._places(row[self.column], row[self.ends])}

    def _places(self, text: str | None, ends: Iterable[float] | None) -> list[int]:
        known = list(ends or ())
        places = [1 + bisect_right(known, start) for start in word_starts(text)]
        return [place if place < self.num_tokens else 0 for place in places]
