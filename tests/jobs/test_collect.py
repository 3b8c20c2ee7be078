"""collect: every event of the feedback once in the raw events, whatever is repeated, killed or run twice."""

import asyncio
import json
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError, SpecError, StorageError
from cluster.lifecycle import Cluster
from cluster.storage import Storage
from jobs import collect, prepare
from jobs.spec import RingSpec
from serving.feedback import Event, FeedbackLog
from tests.jobs.conftest import NUM_ITEMS, NUM_USERS, Ring, rating_lines

FIRST = "raw/ratings/collected-000001.parquet"


def event(number: int, received_s: int | None = None) -> Event:
    second = number if received_s is None else received_s
    user, item = str(number % NUM_USERS), str(number % NUM_ITEMS)
    received_at = f"2026-05-04T12:{second // 60:02d}:{second % 60:02d}.000250+00:00"
    return Event(f"e{number}", user, item, 4.5, 1_700_000_000 + number, received_at, "v1")


def serve(storage: Storage, events: Sequence[Event]) -> None:
    """Write feedback the way a replica does."""

    async def append() -> None:
        log = FeedbackLog(storage, "films")
        await asyncio.gather(*map(log.append, events))

    asyncio.run(append())


def write(storage: Storage, name: str, events: Sequence[Event]) -> None:
    lines = "".join(json.dumps(asdict(event)) + "\n" for event in events)
    storage.write(f"feedback/films/2026-05-04/{name}.jsonl", lines.encode())


def collected(ring: Ring) -> pa.Table:
    """The collected rows in the order of the files; every file that is to be seen must be whole."""
    files = [str(info.path) for info in ring.storage.files("raw/ratings") if "collected-" in str(info.path)]
    return pa.concat_tables([pq.read_table(path) for path in files]) if files else pa.table({"event_id": []})


def ids(ring: Ring) -> list[str]:
    found: list[str] = collected(ring).column("event_id").to_pylist()
    return found


@pytest.mark.ray
def test_what_a_replica_wrote_is_collected_once_and_then_skipped(cluster: Cluster, ring: Ring) -> None:
    serve(ring.storage, [event(number) for number in range(20)])
    first = collect.run(ring.spec(), ring.storage)
    assert (first.ran, first.folder, first.summary) == (True, FIRST, "20 new events")
    again = collect.run(ring.spec(), ring.storage)
    assert (again.ran, again.folder, again.why) == (False, "", "no new feedback")
    assert ids(ring) == [f"e{number}" for number in range(20)]


@pytest.mark.ray
def test_an_event_sent_again_counts_once_in_its_file_in_another_and_in_a_later_run(
    cluster: Cluster, ring: Ring
) -> None:
    early, late = event(1, received_s=5), event(1, received_s=9)
    write(ring.storage, "a", [replace(late, rating=1.0), event(2), event(2)])
    write(ring.storage, "b", [early, event(3)])
    collect.run(ring.spec(), ring.storage)
    assert sorted(ids(ring)) == ["e1", "e2", "e3"]
    ratings = dict(zip(ids(ring), collected(ring).column("rating").to_pylist(), strict=True))
    assert ratings["e1"] == "4.5"  # as it was first received
    write(ring.storage, "c", [event(2), event(4)])
    later = collect.run(ring.spec(), ring.storage)
    assert (later.folder, later.summary) == ("raw/ratings/collected-000002.parquet", "1 new events")
    assert sorted(ids(ring)) == ["e1", "e2", "e3", "e4"]


@pytest.mark.ray
def test_a_file_of_repeats_alone_is_not_read_again(cluster: Cluster, ring: Ring) -> None:
    write(ring.storage, "a", [event(1)])
    collect.run(ring.spec(), ring.storage)
    write(ring.storage, "b", [event(1)])
    assert collect.run(ring.spec(), ring.storage).summary == "0 new events"
    assert not collect.run(ring.spec(), ring.storage).ran
    assert ids(ring) == ["e1"]


@pytest.mark.ray
def test_rows_come_in_the_order_they_were_received(cluster: Cluster, ring: Ring) -> None:
    seconds = random.Random(0).sample(range(200), 60)
    events = [event(number, second) for number, second in enumerate(seconds)]
    for part in range(6):
        write(ring.storage, f"{part}", events[part::6])
    collect.run(ring.spec(), ring.storage)
    assert collected(ring).column("received_at").to_pylist() == sorted(event.received_at for event in events)


@pytest.mark.ray
def test_prepare_reads_what_was_collected_under_the_names_of_the_raw_files(cluster: Cluster, ring: Ring) -> None:
    serve(ring.storage, [replace(event(number), user_id=f"new {number}") for number in range(10)])
    collect.run(ring.spec(), ring.storage)
    assert {"userId", "movieId", "rating", "timestamp"} < set(collected(ring).column_names)
    made = prepare.run(ring.spec(), ring.storage)
    manifest = ring.storage.manifest(made.folder)
    assert (manifest["num_read"], manifest["num_bad"]) == (len(rating_lines()) + 10, 0)
    assert sum(manifest["num_rows"].values()) == len(rating_lines()) + 10


@pytest.mark.ray
def test_an_empty_feedback_file_is_no_event(cluster: Cluster, ring: Ring) -> None:
    ring.storage.write("feedback/films/2026-05-04/empty.jsonl", b"")
    assert collect.run(ring.spec(), ring.storage).summary == "0 new events"
    write(ring.storage, "a", [event(1)])
    ring.storage.write("feedback/films/2026-05-04/empty too.jsonl", b"")
    assert collect.run(ring.spec(), ring.storage).summary == "1 new events"
    assert not collect.run(ring.spec(), ring.storage).ran


def kill_at(ring: Ring, moment: float) -> int:
    """Start a collect, kill it at that time, and return its exit code; nothing but whole files is ever seen."""
    process = ring.start("jobs.collect")
    while time.monotonic() < moment and process.poll() is None:
        assert len(ids(ring)) in (0, 50)
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    return process.returncode


@pytest.mark.ray
def test_killed_at_any_moment_every_event_is_there_once_in_the_end(cluster: Cluster, ring: Ring) -> None:
    events = [event(number) for number in range(50)]
    for part in range(5):
        write(ring.storage, f"{part}", events[part::5])
    codes: list[int] = []
    while 0 not in codes:
        dies = time.monotonic() + random.Random(len(codes)).uniform(0.8, 1.4) * (2 * len(codes) + 1)
        codes.append(kill_at(ring, dies))
    assert codes[0] == -signal.SIGKILL
    assert set(codes) == {0, -signal.SIGKILL}
    assert sorted(ids(ring)) == sorted(event.event_id for event in events)


@pytest.mark.ray
@pytest.mark.parametrize("is_published", [False, True])
def test_killed_as_it_publishes_every_event_is_there_once_in_the_end(
    cluster: Cluster, ring: Ring, is_published: bool
) -> None:
    write(ring.storage, "a", [event(number) for number in range(50)])
    ring.kill("name", "after" if is_published else "before", "jobs.collect")
    assert list(Path(ring.storage.path("raw/ratings")).glob("*.incoming"))
    assert len(ids(ring)) == 50 * is_published
    assert collect.run(ring.spec(), ring.storage).ran != is_published
    assert sorted(ids(ring)) == sorted(f"e{number}" for number in range(50))
    assert not collect.run(ring.spec(), ring.storage).ran


@pytest.mark.ray
def test_two_collects_at_the_same_time_take_every_event_once(cluster: Cluster, ring: Ring) -> None:
    for part in range(10):
        write(ring.storage, f"{part}", [event(number) for number in range(part * 10, part * 10 + 15)])
    ends = []
    for process in [ring.start("jobs.collect") for _ in range(2)]:
        output, _ = process.communicate(timeout=120)
        ends.append((process.returncode, output))
    codes = sorted(code for code, _ in ends)
    assert codes in ([0, 0], [0, 2]), ends
    for code, output in ends:
        assert "Traceback" not in output
        assert code == 0 or "at the same moment; run collect again" in output
    assert sorted(ids(ring)) == sorted(f"e{number}" for number in range(105))


@dataclass(frozen=True)
class OvertakenStorage(Storage):
    """A storage where another collect is faster."""

    spec: RingSpec

    def create(self, relative: str, content: bytes) -> None:
        collect.run(self.spec, Storage(self.uri))
        super().create(relative, content)


@pytest.mark.ray
def test_a_collect_that_is_overtaken_says_so_and_adds_nothing(cluster: Cluster, ring: Ring) -> None:
    write(ring.storage, "a", [event(1), event(2)])
    with pytest.raises(StorageError, match=f"another collect wrote '{FIRST}' at the same moment; run collect again"):
        collect.run(ring.spec(), OvertakenStorage(ring.storage.uri, ring.spec()))
    assert ids(ring) == ["e1", "e2"]
    assert not collect.run(ring.spec(), ring.storage).ran


@pytest.mark.ray
def test_a_collected_file_that_was_removed_is_asked_for(cluster: Cluster, ring: Ring) -> None:
    for number in range(2):
        write(ring.storage, f"{number}", [event(number)])
        collect.run(ring.spec(), ring.storage)
    ring.storage.remove(FIRST)
    with pytest.raises(DataError, match=r"holds collected files \[2\]; one is missing, .* Put it back"):
        collect.run(ring.spec(), ring.storage)


def test_a_file_that_only_has_the_name_of_a_collected_one_is_refused(ring: Ring) -> None:
    ring.storage.write(FIRST, b"userId")
    write(ring.storage, "a", [event(1)])
    with pytest.raises(DataError, match=f"{FIRST}' does not say which feedback it was made of"):
        collect.plan(ring.spec(), ring.storage)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"event_id": "e9", "user', "line is no JSON"),
        (b'{"event_id": "e9", "user_id": "1"}', "received_at is missing"),
        (b'{"received_at": "2026-05-04T12:00:00+00:00", "user_id": "1"}', "event_id is missing"),
    ],
)
def test_a_damaged_feedback_file_is_named_and_nothing_is_collected(
    cluster: Cluster, ring: Ring, line: bytes, fault: str
) -> None:
    write(ring.storage, "a", [event(1)])
    ring.storage.write("feedback/films/2026-05-04/b.jsonl", json.dumps(asdict(event(2))).encode() + b"\n" + line)
    path = ring.storage.path("feedback/films/2026-05-04/b.jsonl")
    with pytest.raises(DataError, match=f"feedback file '{path}' is damaged: {fault}.*; mend or remove it"):
        collect.run(ring.spec(), ring.storage)
    assert ids(ring) == []


@pytest.mark.ray
def test_a_damaged_feedback_file_ends_the_command_with_2_and_its_path(cluster: Cluster, ring: Ring) -> None:
    ring.storage.write("feedback/films/2026-05-04/b.jsonl", b"half a li")
    code, output = ring.call("jobs.collect")
    path = ring.storage.path("feedback/films/2026-05-04/b.jsonl")
    assert code == 2
    assert output.startswith(f"rayline: feedback file '{path}' is damaged: line is no JSON")
    assert len(output.splitlines()) == 1


def test_nothing_to_do_starts_no_cluster_and_is_said(ring: Ring) -> None:
    made = collect.run(ring.spec(), ring.storage)
    assert (made.ran, made.folder, made.why) == (False, "", "no new feedback")
    assert collect.plan(ring.spec(), ring.storage) == "collect: skip, no new feedback"


def test_plan_says_what_would_be_written_and_writes_nothing(ring: Ring) -> None:
    write(ring.storage, "a", [event(1)])
    planned = collect.plan(ring.spec(), ring.storage)
    assert planned == f"collect: run\n  read 1 file of new feedback\n  write {FIRST}"
    assert not ring.storage.exists(FIRST)


def test_raw_events_in_a_single_file_cannot_take_feedback(ring: Ring) -> None:
    write(ring.storage, "a", [event(1)])
    with pytest.raises(SpecError, match=r"raw.events.path='raw/ratings/ratings.csv' is a file"):
        collect.run(ring.spec("raw.events.path=raw/ratings/ratings.csv"), ring.storage)


def test_a_raw_column_of_the_name_of_one_that_collect_adds_is_refused(ring: Ring) -> None:
    write(ring.storage, "a", [event(1)])
    with pytest.raises(SpecError, match="names a column 'received_at', which collect adds of its own"):
        collect.run(ring.spec("raw.events.columns.timestamp=received_at"), ring.storage)
