"""What dies while rows are prepared: nothing is lost, and no row is there twice."""

import os
import signal
import time
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pyarrow as pa
import pytest

from cluster.lifecycle import Cluster
from cluster.processes import command, running
from cluster.storage import Storage
from jobs import prepare
from jobs.prepared_files import as_parquet
from jobs.spec import load_ring
from tests.jobs.conftest import Ring

NUM_FILES, ROWS_A_FILE, NUM_KILLS = 12, 20_000, 2
SPEC = """
name: table
storage: {storage}
raw: {{events: {{path: raw}}}}
prepare:
  in_process_bytes: {in_process_bytes}
  split: {{by: hash}}
  steps:
    - {{kind: outliers, column: size, then: drop}}
    - {{kind: impute, column: size}}
    - {{kind: one_hot, column: colour, output: colours}}
workload: {{kind: tabular, label: label, numeric: [size], vectors: [colours]}}
train: {{early_stopping: {{metric: log_loss, mode: min}}}}
"""


def write_raw(storage: Storage) -> None:
    """Files that share ids, so that rows of one file are left out for those of another."""
    for number in range(NUM_FILES):
        draw = np.random.default_rng(number)
        rows = pa.table(
            {
                "id": [f"row {n}" for n in draw.integers(0, NUM_FILES * ROWS_A_FILE, ROWS_A_FILE)],
                "size": pa.array(draw.lognormal(0, 1, ROWS_A_FILE), mask=draw.random(ROWS_A_FILE) < 0.1),
                "colour": draw.choice(["red", "green", "blue"], ROWS_A_FILE),
                "label": draw.choice(["yes", "no"], ROWS_A_FILE),
            }
        )
        storage.write(f"raw/{number:02d}.parquet", as_parquet(rows))


def prepared(folder: Path, in_process_bytes: int) -> dict[str, bytes]:
    """Every file of the prepared rows."""
    storage = Storage(str(folder))
    (folder / "spec.yaml").write_text(SPEC.format(storage=folder, in_process_bytes=in_process_bytes))
    made = prepare.run(load_ring(folder / "spec.yaml"), storage)
    root = storage.path(made.folder)
    return {
        info.path.removeprefix(root): Path(info.path).read_bytes()
        for info in storage.files(made.folder)
        if not info.path.endswith(("manifest.json", "report.html"))  # they say when
    }


class Killer:
    """Kills workers that are at work on rows, one now and then."""

    def __init__(self) -> None:
        self.num_killed = 0
        self._ended = Event()
        self._thread = Thread(target=self._kill, daemon=True)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _kill(self) -> None:
        while self.num_killed < NUM_KILLS and not self._ended.wait(0.4):
            at_work = [process for process in running() if "ray::MapBatches" in " ".join(command(process))]
            if at_work:
                os.kill(at_work[0].pid, signal.SIGKILL)
                self.num_killed += 1


@pytest.mark.ray
def test_killed_workers_lose_nothing_and_repeat_nothing(cluster: Cluster, tmp_path: Path) -> None:
    write_raw(Storage(str(tmp_path / "one")))
    undisturbed = prepared(tmp_path / "one", 10**9)
    for attempt in "abcd":  # on a busy machine the work may be done before the killer has looked twice
        write_raw(Storage(str(tmp_path / attempt)))
        with Killer() as killer:
            assert prepared(tmp_path / attempt, 0) == undisturbed
        if killer.num_killed == NUM_KILLS:
            return
    pytest.fail("the work was always done before two workers were killed")


@pytest.mark.ray
def test_a_killed_driver_leaves_nothing_that_readers_see_and_the_next_run_makes_it_whole(
    cluster: Cluster, tmp_path: Path, ring: Ring
) -> None:
    write_raw(Storage(str(tmp_path / "one")))
    write_raw(Storage(str(tmp_path / "many")))
    undisturbed = prepared(tmp_path / "one", 10**9)
    ring.spec_file.write_text(SPEC.format(storage=tmp_path / "many", in_process_bytes=0))
    process = ring.start("jobs.prepare")
    ends = time.monotonic() + 60
    while not list(tmp_path.glob("many/prepared/table/.*.incoming/train/*")):  # in the middle of writing
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < ends
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert Storage(str(tmp_path / "many")).folders("prepared/table") == []
    assert prepared(tmp_path / "many", 0) == undisturbed
