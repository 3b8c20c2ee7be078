"""Faults planted into real runs: what the log and the page of the run say, and after how long.

    OMP_NUM_THREADS=1 python -m benchmarks.planted_faults FOLDER

Each run is a line of `jobs.train` on two workers, on the shipped digits, but for what is planted; writes the .md beside
it. Batches that hold a NaN and input that starves are planted in `tests/jobs/test_anomalies.py`, inside one process.
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

from benchmarks.process_tree import tree
from cluster.processes import command
from cluster.storage import Storage
from jobs import examples, prepare
from jobs.spec import load_ring

SPEC = Path(__file__).parents[1] / "jobs/specs/vision.yaml"
TWO = ("layout={replicate: 2}", "train.max_failures=0")
LONG = ("train.num_epochs=200", "train.early_stopping.patience=200", "train.checkpoint_every_steps=20")


@dataclass(frozen=True)
class Fault:
    """What is planted, and what has to be said of it."""

    what: str
    kind: str
    overrides: tuple[str, ...]
    plant: Callable[[int], object] | None = None
    """Called with the process id of the last worker once a checkpoint is there."""


FAULTS = (
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
    return max(one.pid for one in tree(driver) if "".join(command(one)).startswith("ray::RayTrainWorker"))


def told_of(fault: Fault, storage: Storage, seed: int) -> tuple[str, bool, float]:
    """The line of the log that names it, whether the page has it too, and seconds from planting to that line."""
    command = [sys.executable, "-m", "jobs.train", str(SPEC), f"storage={storage.uri}", f"seed={seed}"]
    run = subprocess.Popen(
        [*command, *TWO, *fault.overrides], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    planted = time.monotonic()
    if fault.plant:
        while not list(Path(storage.path("checkpoints/vision")).glob("*/step-*/manifest.json")):
            assert run.poll() is None, "the run ended before anything was planted"
            time.sleep(0.2)
        fault.plant(last_worker(run.pid))
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
        examples.main(["vision", storage.uri])
        prepare.run(load_ring(SPEC, [f"storage={storage.uri}", f"seed={seed}"]), storage)
        line, is_on_page, seconds = told_of(fault, storage, seed)
        rows.append(f"| {fault.what} | {line or 'nothing'} | {'yes' if is_on_page else 'no'} | {seconds:.0f} |")
        print(rows[-1], flush=True)
    Path(__file__).with_suffix(".md").write_text(
        f"""# Faults planted into runs, and what is said of them

Two workers train on the shipped digits; seconds are from the moment of planting, or from the start of the run, to the
line of the log. {platform.machine()}, {os.cpu_count()} cores. Made by
`python -m benchmarks.planted_faults FOLDER`.

| planted | said | on the page | seconds |
|---|---|---|---:|
{chr(10).join(rows)}
"""
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
