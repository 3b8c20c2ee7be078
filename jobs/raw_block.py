"""Raw block: some rows of a file, and the part of the file that is read on its own."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

PART_BYTES = 64 * 1024 * 1024
"""Of a large file that is read in parts, each on its own; of Parquet before compression."""


@dataclass(frozen=True)
class Part:
    """A part of a file that can be read on its own."""

    path: str
    """The filesystem's own."""
    begin: int = 0
    """The first row group of Parquet, the first byte of text: a part has the lines that begin in it."""
    end: int | None = None
    """The first one that is not its own; None of the last."""


@dataclass(frozen=True)
class RawBlock:
    """Some rows of a file."""

    rows: pa.Table
    """By the names in the file; text from CSV and JSON lines, typed from Parquet."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """Lines that are no rows at all: the text and the reason."""
    place: str = ""
    """Which part, as its reader knows it, such as "lines 2-120001"."""
    places: tuple[tuple[int, str], ...] = ()
    """Closer ones, where it knows those: the first row of each, the first being 0."""

    def places_of(self, rows: Sequence[int]) -> list[str]:
        """Where each of these rows lies."""
        if not self.places:
            return [self.place] * len(rows)
        starts = [start for start, _ in self.places]
        return [self.places[bisect_right(starts, row) - 1][1] for row in rows]


def untyped(names: Iterable[str]) -> pa.Schema:
    """Columns of a file that keeps no types."""
    return pa.schema([(name, pa.null()) for name in names])
