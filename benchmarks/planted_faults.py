"""Faults planted into real runs: what the log and the page of the run say, and after how long.

    OMP_NUM_THREADS=1 python -m benchmarks.planted_faults FOLDER

Each run is a line of `jobs.train` on two workers, on the shipped digits or loans, but for what is planted; writes the
.md beside it. Needs the extra `demo`.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.process_tree import tree
from cluster.processes import command as command_line
from cluster.storage import Storage
from jobs import examples, prepare
from jobs.fixed_lists import as_bytes, as_lists
from jobs.prepared_files import as_parquet
from jobs.spec import load_ring

SPECS = Path(__file__).parents[1] / "jobs/specs"
TWO = ("layout={replicate: 2}", "train.max_failures=0")
LONG = ("train.num_epochs=200", "train.early_stopping.patience=200", "train.checkpoint_every_steps=20")


@dataclass(frozen=True)
class Fault:
    """What is planted, and what has to be said of it."""

    what: str
    kind: str
    overrides: tuple[str, ...] = ()
    strike: Callable[[int], object] | None = None
    """Called with the process id of the last worker once a checkpoint is there."""
    example: str = "vision"
    """Of `jobs.examples`, and the spec of that name."""
    in_raw: Callable[[Storage], object] | None = None
    """Called once raw data is there."""
    in_prepared: Callable[[Storage, str], object] | None = None
    """Called with the folder once rows are prepared."""


def leak_label(storage: Storage) -> None:
    """A column that says what became of the loan."""
    (path,) = (info.path for info in storage.files("raw/credit"))
    loans = pa.csv.read_csv(path)
    pa.csv.write_csv(loans.append_column("Outcome", loans.column("Status")), path)


def damage_pixel(storage: Storage, folder: str) -> None:
    """Of one training row, as a fault of memory or disk might: no value of raw data comes through as no number."""
    path = next(info.path for info in storage.files(f"{folder}/train"))
    rows = as_lists(pq.read_table(path))
    pixels = np.stack(rows.column("pixels").to_numpy()).astype(np.float32)
    pixels[len(pixels) // 2, 30] = np.nan
    place = rows.column_names.index("pixels")
    damaged = rows.set_column(place, "pixels", pa.array(list(pixels), pa.list_(pa.float32())))
    Path(path).write_bytes(as_parquet(as_bytes(damaged)))


FAULTS = (
    Fault("one pixel of 78,000 is NaN", "bad rows", ("train.num_epochs=3",), in_prepared=damage_pixel),
    Fault(
        "a column holds the label",
        "leaked label",
        ("workload.categorical=[Home, Marital, Records, Job, Outcome]",),
        example="tabular",
        in_raw=leak_label,
    ),
    Fault("rows are shuffled 64 at a time", "starved input", ("train.shuffle_rows=64", "train.num_epochs=1")),
    Fault("learning rate x 1,000", "divergence", ("train.optimizer.learning_rate=3.0", "train.num_epochs=3")),
    Fault("a model of 1.4 TB", "out of memory", ("workload.block_channels=[200000]",)),
    Fault(
        "a worker stands still (SIGSTOP), others wait 5 s",
        "collective time-out",
        (*LONG, "train.collective_timeout_s=5"),
        lambda pid: os.kill(pid, signal.SIGSTOP),
    ),
)


def last_worker(driver: int) -> int:
    """The process id of one of Train's workers below a driver."""
    return max(one.pid for one in tree(driver) if "".join(command_line(one)).startswith("ray::RayTrainWorker"))


def told_of(fault: Fault, storage: Storage, seed: int) -> tuple[str, bool, float]:
    """The line of the log that names it, whether the page has it too, and seconds from planting to that line."""
    spec, overrides = SPECS / f"{fault.example}.yaml", (f"storage={storage.uri}", f"seed={seed}", *fault.overrides)
    examples.main([fault.example, storage.uri])
    if fault.in_raw:
        fault.in_raw(storage)
    prepared = prepare.run(load_ring(spec, overrides), storage).folder
    if fault.in_prepared:
        fault.in_prepared(storage, prepared)
    command = [sys.executable, "-m", "jobs.train", str(spec), *TWO, *overrides]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    planted = time.monotonic()
    if fault.strike:
        while not list(Path(storage.path("checkpoints/vision")).glob("*/step-*/manifest.json")):
            assert run.poll() is None, "the run ended before anything was planted"
            time.sleep(0.2)
        fault.strike(last_worker(run.pid))
        planted = time.monotonic()
    assert run.stdout is not None
    told, seconds, page = "", 0.0, ""
    for printed in run.stdout:
        if not told and fault.kind in printed:
            told, seconds = printed.strip(), time.monotonic() - planted
        if "how it went: " in printed:
            page = Path(printed.rsplit("how it went: ", 1)[1].strip()).read_text()
    run.wait()
    return told.split("\x1b[0m ", 1)[-1], fault.kind in page, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    rows = []
    for seed, fault in enumerate(FAULTS):
        storage = Storage(str(given.folder / str(seed)))
        line, is_on_page, seconds = told_of(fault, storage, seed)
        rows.append(f"| {fault.what} | {line or 'nothing'} | {'yes' if is_on_page else 'no'} | {seconds:.0f} |")
        print(rows[-1], flush=True)
    Path(__file__).with_suffix(".md").write_text(
        f"""# Faults planted into runs, and what is said of them

Two workers train on the shipped digits, or loans; seconds are from the moment of planting, or from the start of the
run, to the line of the log. {platform.machine()}, {os.cpu_count()} cores. Made by
`python -m benchmarks.planted_faults FOLDER`.

| planted | said | on the page | seconds |
|---|---|---|---:|
{chr(10).join(rows)}
"""
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
