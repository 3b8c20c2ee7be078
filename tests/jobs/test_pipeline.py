"""The whole ring on the suite's cluster: in order, skipped when unchanged, closed by feedback, safe to kill."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from cluster.errors import StorageError
from cluster.lifecycle import Cluster
from cluster.registry import CHAMPION, Registry
from cluster.storage import Storage
from jobs import pipeline, prepare, train
from jobs.prepared import read_split
from jobs.run_log import RunLog
from serving.app import remove, stop_if_idle
from serving.ask import Question, ask
from tests.hdfs import DATA_NODE, NAME_NODE, HdfsServer
from tests.jobs.conftest import Ring, movie_lines, rating_lines
from tests.ports import kept_ports
from tests.s3 import CREDENTIALS, S3Server

# One trial at a time: which of two ASHA stops depends on which is faster.
SEARCH = ("tune.num_trials=2", "tune.max_concurrent=1", "train.num_epochs=8", "train.early_stopping.patience=8")
AMID = 80
"""A step in the third of eight epochs, or in the sixth, by the batch that is found best: a checkpoint is there."""


@pytest.fixture(scope="module")
def port() -> int:
    (port,) = kept_ports(1)
    return port


@pytest.fixture
def serving(cluster: Cluster, port: int) -> Iterator[tuple[str, ...]]:
    """Overrides that serve at a free port; what was served is removed afterwards."""
    yield (f"serving.port={port}", "serving.access=open")
    remove("films")
    stop_if_idle()


def metrics_of_champion(ring: Ring) -> dict[str, Any]:
    version = Registry(ring.storage, "films").resolve(CHAMPION)
    content: dict[str, Any] = json.loads(ring.storage.read(f"models/films/{version}/metrics.json"))
    return content["test"]


@pytest.mark.ray
def test_the_ring_serves_skips_and_closes(
    cluster: Cluster, ring: Ring, port: int, serving: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = ring.spec(*serving)
    first = pipeline.run(spec, ring.storage)
    assert first.why == "ran prepare, train, serve"
    said = capsys.readouterr().out
    places = [said.index(f"{stage}: ") for stage in ("collect", "tune", "serve")]
    assert places == sorted(places)

    again = pipeline.run(spec, ring.storage)
    assert (again.ran, again.why) == (False, "all unchanged")
    wait_until_all_cpus_are_free()
    assert "train: skipped (unchanged)" in capsys.readouterr().out

    address = f"http://127.0.0.1:{port}/films"
    status, answer = ask(address, Question("", "/recommend", {"user_id": 3, "k": 5}))
    assert (status, len(answer["items"])) == (200, 5)
    rating = {"user_id": 3, "item_id": answer["items"][0]["item_id"], "rating": 5.0, "event_id": "once"}
    for _ in range(2):
        assert ask(address, Question("", "/feedback", rating))[0] == 202

    closed = pipeline.run(spec, ring.storage)
    assert closed.why == "ran collect, prepare, train, serve"
    said = capsys.readouterr().out
    assert "1 new events" in said
    assert "prepare: ran (data changed)" in said
    assert ask(address, Question("", "/health"))[1]["version"] == Registry(ring.storage, "films").resolve(CHAMPION)


@pytest.mark.ray
def test_a_killed_pipeline_is_followed_by_one_that_goes_on(cluster: Cluster, ring: Ring, make_ring: Any) -> None:
    undisturbed = make_ring()
    embedded = ("serving.version=none", *SEARCH)  # no such alias: nothing is served
    code, output = undisturbed.call("jobs.pipeline", *embedded)
    assert code == 0, output

    moments: list[tuple[str, str | int]] = [("says", "prepare: scan 1"), ("says", "trial 1/2"), ("step", AMID)]
    for moment, which in moments:
        ring.kill(moment, which, "jobs.pipeline", *embedded)
    code, output = ring.call("jobs.pipeline", *embedded)
    assert code == 0, output
    assert "prepare: skipped (unchanged)" in output
    assert "tune: skipped (unchanged)" in output
    assert metrics_of_champion(ring) == metrics_of_champion(undisturbed)
    version = Registry(ring.storage, "films").resolve(CHAMPION)
    starts = RunLog(ring.storage, Registry(ring.storage, "films").manifest(version)["run"]).starts()
    assert [start.step > 0 for start in starts] == [False, True]
    assert starts[-1].step < AMID
    searched = json.loads(ring.storage.read(f"models/films/{version}/plan.json"))
    assert [trial["outcome"] in ("finished", "stopped") for trial in searched["trials"]] == [True, True]


def wait_until_all_cpus_are_free() -> None:
    """Ray tells of what workers that have ended gave back only some time later."""
    ends = time.monotonic() + 120
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < ends, "serving must leave the CPUs to the next training"
        time.sleep(0.1)


def test_plan_names_every_stage_and_writes_nothing(ring: Ring) -> None:
    planned = pipeline.plan(ring.spec(*SEARCH), ring.storage)
    for line in ("collect: skip", "prepare: run (first run)", "tune: run (first run)", "train: run", "serve: champion"):
        assert line in planned
    assert not ring.storage.exists("prepared")
    assert not ring.storage.exists("plans")


NUM_RAW_FILES = 24


def write_many_raw(storage: Storage) -> None:
    """The ratings in many files, each with a row that is refused."""
    lines = rating_lines()
    for number in range(NUM_RAW_FILES):
        rows = ["userId,movieId,rating,timestamp", f"{number},1,bad,1600000000", *lines[number::NUM_RAW_FILES], ""]
        storage.write(f"raw/ratings/{number:02}.csv", "\n".join(rows).encode())
    storage.write("raw/movies/movies.csv", "\n".join(["movieId,title,genres", *movie_lines(), ""]).encode())


def prepared_rows(storage: Storage) -> dict[str, Any]:
    (key,) = storage.folders("prepared/films")
    folder = f"prepared/films/{key}"
    return {name: read_split(storage, folder, name, ("user_id", "item_id")) for name in ("train", "valid", "test")}


def refused_rows(storage: Storage) -> int:
    return sum(pq.read_table(storage.open(info.path)).num_rows for info in storage.files("quarantine/films"))


def run_with_a_kill(ring: Ring, storage: Storage, kill_and_start: Callable[[], None]) -> str:
    """Run the ring there, with the server killed when some but not all of the raw files are read; what it said.

    The ring runs in a process of its own: what this thread starts ends with it.
    """
    write_many_raw(ring.storage)
    overrides = ("serving.version=none", "train.num_epochs=1", "prepare.max_bad_fraction=0.1")
    prepare.run(ring.spec(*overrides, "prepare.in_process_bytes=100000000"), ring.storage)
    write_many_raw(storage)
    process = ring.start_held("pause", NUM_RAW_FILES // 2, "jobs.pipeline", *overrides, f"storage={storage.uri}")
    while not (paused := list(ring.spec_file.parent.glob("*/paused"))):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    num_read = len(storage.files("quarantine/films"))
    kill_and_start()
    paused[0].unlink()
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert "pipeline: ran (ran prepare, train)" in output
    assert 0 < num_read < NUM_RAW_FILES
    assert prepared_rows(storage) == prepared_rows(ring.storage)
    assert refused_rows(storage) == NUM_RAW_FILES
    (version,) = storage.folders("models/films")
    Registry(storage, "films").open(version)
    return output


@pytest.mark.ray
@pytest.mark.services
@pytest.mark.slow
def test_the_ring_on_s3_outlasts_kill_9_of_the_server_in_the_middle_of_prepare(
    cluster: Cluster, ring: Ring, s3: S3Server
) -> None:
    def kill_and_start() -> None:
        s3.kill()
        s3.start(after_s=2.0)

    storage = s3.storage("pipeline")
    said = run_with_a_kill(ring, storage, kill_and_start)
    written = [info.path for info in storage.files("")]
    assert len(written) > NUM_RAW_FILES
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
    assert not [path for path in written if secret.encode() in storage.open(path).read()]
    assert "prepare: reading" in said
    assert secret not in said


@pytest.mark.ray
@pytest.mark.services
def test_the_ring_on_hdfs_outlasts_kill_9_of_its_servers_in_the_middle_of_prepare(
    cluster: Cluster, ring: Ring, hdfs: HdfsServer
) -> None:
    def kill_and_start() -> None:
        for program in (NAME_NODE, DATA_NODE):
            hdfs.kill(program)
            hdfs.start(program, after_s=2.0)

    run_with_a_kill(ring, hdfs.storage("pipeline"), kill_and_start)


def test_a_ring_in_the_memory_of_one_process_is_refused_before_a_cluster_is_started(ring: Ring) -> None:
    storage = Storage("memory://refused ring")
    with pytest.raises(StorageError, match="'memory://refused ring' is in the memory of one process"):
        pipeline.run(ring.spec(), storage)
    write_many_raw(storage)
    overrides = ("prepare.max_bad_fraction=0.1", f"storage={storage.uri}")
    with pytest.raises(StorageError, match="workers of a cluster cannot see it"):
        prepare.run(ring.spec(*overrides), storage)
    made = prepare.run(ring.spec(*overrides, "prepare.in_process_bytes=100000000"), storage)
    assert made.ran
    write_many_raw(ring.storage)
    prepare.run(ring.spec(*overrides[:1], "prepare.in_process_bytes=100000000"), ring.storage)
    assert prepared_rows(storage) == prepared_rows(ring.storage)
    with pytest.raises(StorageError, match="workers of a cluster cannot see it"):
        train.run(ring.spec(*overrides, "prepare.in_process_bytes=100000000"), storage)
