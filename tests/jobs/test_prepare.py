"""prepare on the suite's cluster, and what it says of data it cannot use."""

import csv
import io
import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError, SpecError
from cluster.lifecycle import Cluster
from jobs import prepare
from jobs.prepared import read_split, read_transform
from tests.jobs.conftest import Ring, rating_lines, write_raw

TIES = ("user_id", "item_id")
Row = tuple[str, str, float, int]


def rows_of(ring: Ring, folder: str, split: str) -> list[dict[str, Any]]:
    return read_split(ring.storage, folder, split, TIES).to_pylist()


def keyed(row: dict[str, Any]) -> Row:
    return row["user_id"], row["item_id"], row["rating"], row["timestamp"]


def parsed(lines: list[str]) -> list[Row]:
    return [(user, item, float(rating), int(time)) for user, item, rating, time in csv.reader(lines)]


def split_by_hand(rows: list[Row]) -> dict[str, set[Row]]:
    """The documented rule in plain Python: each user's rows by time, the middle of a row's place decides."""
    splits: dict[str, set[Row]] = {"train": set(), "valid": set(), "test": set()}
    for user in {row[0] for row in rows}:
        own = sorted((row for row in rows if row[0] == user), key=lambda row: (row[3], row[0], row[1]))
        for place, row in enumerate(own):
            share = (place + 0.5) / len(own)
            splits["train" if share < 0.8 else "valid" if share < 0.9 else "test"].add(row)
    return splits


@pytest.mark.ray
def test_every_row_comes_out_once_in_the_split_that_time_gives_it(cluster: Cluster, prepared_ring: Ring) -> None:
    made = prepare.run(prepared_ring.spec(), prepared_ring.storage)
    expected = split_by_hand(parsed(rating_lines()))
    for split, rows in expected.items():
        got = [keyed(row) for row in rows_of(prepared_ring, made.folder, split)]
        assert len(got) == len(set(got))
        assert set(got) == rows


@pytest.mark.ray
def test_indices_are_fitted_on_training_rows_alone(cluster: Cluster, prepared_ring: Ring) -> None:
    made = prepare.run(prepared_ring.spec(), prepared_ring.storage)
    counts = Counter(row[1] for row in split_by_hand(parsed(rating_lines()))["train"])
    expected = sorted(counts, key=lambda item: (-counts[item], item))
    items = read_transform(prepared_ring.storage, made.folder).lookups["items"]
    assert items.column("item_id").to_pylist() == expected
    for row in rows_of(prepared_ring, made.folder, "test"):
        assert row["item"] == (expected.index(row["item_id"]) + 1 if row["item_id"] in counts else 0)


@pytest.mark.ray
def test_a_second_run_is_skipped_and_a_changed_file_makes_it_run(cluster: Cluster, ring: Ring) -> None:
    first = prepare.run(ring.spec(), ring.storage)
    assert (first.ran, first.why) == (True, "first run")
    assert not prepare.run(ring.spec("train.num_epochs=9"), ring.storage).ran
    write_raw(ring.storage, rating_lines()[:-1])
    again = prepare.run(ring.spec(), ring.storage)
    assert (again.ran, again.why) == (True, "data changed")
    other = prepare.run(ring.spec("prepare.split.test=0.2"), ring.storage)
    assert (other.ran, other.why) == (True, "spec changed: prepare.split.test 0.1 -> 0.2")


@pytest.mark.ray
def test_the_later_of_two_ratings_of_a_pair_stays(cluster: Cluster, ring: Ring) -> None:
    lines = rating_lines()
    user, item, _, time = lines[0].split(",")
    later = f"{user},{item},0.5,{int(time) + 10_000_000}"
    write_raw(ring.storage, [*lines, later, lines[1]])
    made = prepare.run(ring.spec(), ring.storage)
    rows = [keyed(row) for split in ("train", "valid", "test") for row in rows_of(ring, made.folder, split)]
    assert Counter(rows) == Counter(parsed([*lines[1:], later]))


@pytest.mark.ray
def test_one_moment_parts_all_rows_without_within(cluster: Cluster, ring: Ring) -> None:
    made = prepare.run(ring.spec("prepare.split.within=null"), ring.storage)
    times = {split: [row["timestamp"] for row in rows_of(ring, made.folder, split)] for split in ("train", "valid")}
    assert max(times["train"]) <= min(times["valid"])


@pytest.mark.ray
def test_one_percent_of_corrupt_rows_is_quarantined_with_reasons(cluster: Cluster, ring: Ring) -> None:
    lines = rating_lines()
    corrupt = 5 * ["1,2,abc,1600000000", "1,2,9.5,1600000000", ",2,4.0,1600000000", "1,2,3", "1,2,4.0,yesterday"]
    assert len(corrupt) / (len(lines) + len(corrupt)) == pytest.approx(0.01, abs=0.001)
    write_raw(ring.storage, [*lines[:1000], *corrupt, *lines[1000:]])
    made = prepare.run(ring.spec(), ring.storage)
    assert f"{len(corrupt):,} of {len(lines) + len(corrupt):,} rows in quarantine" in made.summary
    key = made.folder.rsplit("/", 1)[1]
    files = [info.path for info in ring.storage.files(f"quarantine/films/{key}/events")]
    quarantined = pa.concat_tables(pq.read_table(path) for path in files)
    assert sorted(quarantined.column("reason").to_pylist()) == sorted(
        5
        * [
            "rating 'abc' is no number",
            "rating '9.5' is above 5",
            "userId is missing",
            "row has 3 fields, the header 4",
            "timestamp 'yesterday' is no number of seconds",
        ]
    )
    kept = sum(len(rows_of(ring, made.folder, split)) for split in ("train", "valid", "test"))
    assert kept == len(lines)


@pytest.mark.ray
def test_thirty_percent_of_corrupt_rows_are_refused_with_the_numbers(cluster: Cluster, ring: Ring) -> None:
    lines = rating_lines()
    num_bad = len(lines) * 3 // 7
    write_raw(ring.storage, lines + ["1,2,abc,5"] * num_bad)
    with pytest.raises(DataError) as refused:
        prepare.run(ring.spec(), ring.storage)
    message = str(refused.value)
    assert f"{num_bad:,} of {len(lines) + num_bad:,} rows of 'raw/ratings' (30.0%) are bad" in message
    assert "max_bad_fraction=0.05 allows 5.0%" in message
    assert "rating 'abc' is no number" in message
    assert ring.storage.folders("prepared/films") == []


@pytest.mark.ray
def test_the_same_rows_from_other_formats_are_prepared_alike(cluster: Cluster, ring: Ring) -> None:
    expected = prepare.run(ring.spec(), ring.storage)
    columns = {name: [] for name in ("userId", "movieId", "rating", "timestamp")}
    for user, item, rating, time in parsed(rating_lines()):
        for name, value in zip(columns, (int(user), int(item), rating, time), strict=True):
            columns[name].append(value)
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    pq.write_table(table.slice(0, 1000), sink)
    ring.storage.write("raw/ratings/a.parquet", sink.getvalue().to_pybytes())
    lines = io.StringIO()

    for row in table.slice(1000).to_pylist():
        lines.write(json.dumps(row) + "\n")
    ring.storage.write("raw/ratings/b.jsonl", lines.getvalue().encode())
    ring.storage.remove("raw/ratings/ratings.csv")
    made = prepare.run(ring.spec(), ring.storage)
    assert made.folder != expected.folder
    for split in ("train", "valid", "test"):
        assert rows_of(ring, made.folder, split) == rows_of(ring, expected.folder, split)


@pytest.mark.ray
def test_a_bad_within_names_the_valid_ones(cluster: Cluster, ring: Ring) -> None:
    with pytest.raises(SpecError, match=r"prepare.split.within: 'user' .*Did you mean 'user_id'"):
        prepare.run(ring.spec("prepare.split.within=user"), ring.storage)


def test_missing_data_is_said_with_the_way_out(ring: Ring) -> None:
    code, output = ring.call("jobs.prepare", "raw.events.path=raw/nowhere")
    assert code == 2
    assert "raw data 'raw/nowhere' does not exist in" in output
    assert "raw.events.path=..." in output
    assert "Traceback" not in output


def test_an_empty_file_is_said(ring: Ring) -> None:
    ring.storage.write("raw/ratings/ratings.csv", b"")
    code, output = ring.call("jobs.prepare")
    assert code == 2
    assert "raw data 'raw/ratings'" in output
    assert "is empty" in output
    assert "Traceback" not in output


def test_a_renamed_column_is_said_with_the_nearest_name(ring: Ring) -> None:
    ring.storage.write("raw/ratings/ratings.csv", b"userId,movieId,ratings,timestamp\n1,2,3,4\n")
    code, output = ring.call("jobs.prepare")
    assert code == 2
    assert "has no column 'rating'. Did you mean 'ratings'?" in output
    assert "columns: {rating: NAME}" in output
    assert "Traceback" not in output


@pytest.mark.ray
def test_a_header_without_rows_is_said(ring: Ring, cluster: Cluster) -> None:
    ring.storage.write("raw/ratings/ratings.csv", b"userId,movieId,rating,timestamp\n")
    with pytest.raises(DataError, match="has a header but no rows"):
        prepare.run(ring.spec(), ring.storage)


def test_plan_says_what_would_be_read_and_writes_nothing(ring: Ring) -> None:
    planned = prepare.plan(ring.spec(), ring.storage)
    assert "prepare: run (first run)" in planned
    assert "within each user_id: 80% train, 10% valid, 10% test" in planned
    assert not ring.storage.exists("prepared")
