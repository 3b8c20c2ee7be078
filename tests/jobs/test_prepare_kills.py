"""What dies while rows are prepared: nothing is lost, and no row is there twice."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from ray.data import Dataset

from cluster.lifecycle import Cluster
from cluster.storage import Storage
from jobs import prepare
from jobs.dataset import each
from jobs.prepared_files import as_parquet
from jobs.spec import load_ring
from tests.jobs.conftest import Ring
from tests.jobs.killed_stage import claimed

NUM_FILES, ROWS_A_FILE = 12, 20_000
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


def read_until(item: str, read: Callable[[str], Iterator[pa.Table]], mark: Path) -> Iterator[pa.Table]:
    """What a worker makes of an item; the first worker that has made something is killed before its task ends."""
    for table in read(item):
        if claimed(mark):
            os.kill(os.getpid(), signal.SIGKILL)
        yield table


@pytest.mark.ray
def test_killed_workers_lose_nothing_and_repeat_nothing(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw(Storage(str(tmp_path / "one")))
    write_raw(Storage(str(tmp_path / "many")))
    undisturbed = prepared(tmp_path / "one", 10**9)
    marks: list[Path] = []

    def each_until(items: Sequence[str], read: Callable[[str], Iterator[pa.Table]], **options: Any) -> Dataset:
        marks.append(tmp_path / f"pass {len(marks)}")
        return each(items, partial(read_until, read=read, mark=marks[-1]), **options)

    monkeypatch.setattr("jobs.blocks.each", each_until)
    assert prepared(tmp_path / "many", 0) == undisturbed
    assert len(marks) > 2  # the rows are read, fitted on and written
    assert all(mark.exists() for mark in marks)


@pytest.mark.ray
def test_a_killed_driver_leaves_nothing_that_readers_see_and_the_next_run_makes_it_whole(
    cluster: Cluster, tmp_path: Path, ring: Ring
) -> None:
    write_raw(Storage(str(tmp_path / "one")))
    write_raw(Storage(str(tmp_path / "many")))
    undisturbed = prepared(tmp_path / "one", 10**9)
    ring.spec_file.write_text(SPEC.format(storage=tmp_path / "many", in_process_bytes=0))
    ring.kill("block", 2, "jobs.prepare")  # of four: small files are read together
    assert list(tmp_path.glob("many/prepared/table/.*.incoming/train/*"))
    assert Storage(str(tmp_path / "many")).folders("prepared/table") == []
    assert prepared(tmp_path / "many", 0) == undisturbed
