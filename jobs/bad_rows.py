"""Bad rows in quarantine: where the first of them lie, and which column makes nearly all of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.storage import Storage
from jobs.features.columns import RULES, Column

NUM_REASONS_SHOWN = 3
MOST = 0.9
"""The share of all bad rows from which one column is to blame."""


@dataclass(frozen=True)
class BadRow:
    """What is said of a bad row."""

    source: str
    place: str
    """The part of the file; empty where its reader knows none."""
    reason: str

    @property
    def where(self) -> str:
        """Its file and the part of it."""
        return f"'{self.source}'{f', {self.place}' if self.place else ''}"


def file_name(source: str, begin: int, number: int) -> str:
    """Of the bad rows in a numbered block of the part of a raw file that begins there."""
    return f"{_begins(source)}-{begin:014d}-{number:06d}.parquet"


def in_order(paths: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Files of bad rows as their rows lie in the raw files."""
    places = {_begins(source): place for place, source in enumerate(sources)}

    def key(path: str) -> tuple[int, str]:
        name = path.rpartition("/")[2]
        return places.get(name.partition("-")[0], len(places)), name

    return sorted(paths, key=key)


def first_rows(storage: Storage, path: str) -> list[BadRow]:
    """The first few of a file of bad rows."""
    with storage.open(path) as file:
        table = pq.read_table(file, columns=["source", "place", "reason"])
    return [BadRow(**row) for row in table.slice(0, NUM_REASONS_SHOWN).to_pylist()]


def blamed(storage: Storage, paths: Sequence[str], columns: Sequence[Column]) -> str | None:
    """A sentence on the column that makes nearly all of the bad rows, with the place of the first; None if none does.

    Args:
        paths: files of bad rows in order.
    """
    num_rows, counts, first = 0, dict.fromkeys(columns, 0), dict[Column, BadRow]()
    for path in paths:
        with storage.open(path) as file:
            table = pq.read_table(file, columns=["source", "place", "reason"])
        num_rows += table.num_rows
        for column in columns:
            reasons = table.column("reason")
            quotes = pc.starts_with(reasons, f"{column.in_files} '")
            own = pc.or_(quotes, pc.equal(reasons, f"{column.in_files} is missing"))
            rows = table.filter(own)
            counts[column] += rows.num_rows
            if rows.num_rows:
                first.setdefault(column, BadRow(**rows.slice(0, 1).to_pylist()[0]))
    worst = max(columns, key=lambda column: counts[column])
    return _blame(worst, first[worst]) if counts[worst] and counts[worst] >= MOST * num_rows else None


def _blame(column: Column, row: BadRow) -> str:
    name, rule = column.in_files, RULES[column.kind]
    before, after = f"{name} ", f" is no {rule}"
    if row.reason.startswith(f"{before}'") and row.reason.endswith(after):
        value = row.reason[len(before) : -len(after)]
        return f"column '{name}' stops being {_a(rule)} in {row.where}: {value}"
    return f"column '{name}', from {row.where} on: {row.reason}"


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _begins(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:12]
