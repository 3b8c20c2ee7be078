"""kill -9 of a random worker at a random step, again and again, through Ray Train: is the loss curve undisturbed?

    OMP_NUM_THREADS=1 python -m benchmarks.random_kills [--kills 20]

The shipped `tabular` spec on shard=2 x tensor=2 with a checkpoint every few steps. Writes random_kills.md.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.processes import command, family, find
from cluster.storage import Storage
from jobs import examples
from jobs.lineage import train_inputs
from jobs.parallel.checkpoint import Checkpoints
from jobs.spec import load_ring

ROOT = Path(__file__).parents[1]
SPEC = "jobs/specs/tabular.yaml"
NUM_EPOCHS = 60
OVERRIDES = (
    "layout={shard: 2, tensor: 2}",
    f"train.num_epochs={NUM_EPOCHS}",
    f"train.early_stopping.patience={NUM_EPOCHS}",
    "train.checkpoint_every_steps=5",
    "train.max_failures=1000",
)
MOST_STEPS_BEFORE_A_KILL = 60
POLL_S = 0.05
EPOCH = re.compile(r"epoch (\d+)/\d+  step \d+/\d+  (loss .*?)  [\d,]+ rows/s")


@dataclass
class Ended:
    """A training run that came to its end."""

    curve: dict[int, str]
    """Each epoch's loss and metrics, as printed."""
    seconds: float
    kills: list[int]
    """After which step each worker was killed."""


def started(storage: Storage, log: Path) -> "subprocess.Popen[bytes]":
    arguments = ["cluster", "run", "--num-cpus", "6", "--", sys.executable, "-m", "jobs.train", SPEC]
    arguments += [f"storage={storage.uri}", *OVERRIDES]
    with log.open("wb") as output:
        return subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)


def trained(storage: Storage, log: Path, num_kills: int, generator: random.Random) -> Ended:
    """Train to the end, killing workers on the way."""
    begun = time.monotonic()
    checkpoints = checkpoints_of(storage)
    process = started(storage, log)
    kills: list[int] = []
    due = generator.randint(1, MOST_STEPS_BEFORE_A_KILL)
    while process.poll() is None:
        step = max(checkpoints.steps(), default=0)
        workers = workers_of(process.pid) if len(kills) < num_kills and step >= due else []
        if len(workers) == 4:
            os.kill(generator.choice(workers), signal.SIGKILL)
            kills.append(step)
            due = step + generator.randint(1, MOST_STEPS_BEFORE_A_KILL)
            print(f"kill {len(kills)}/{num_kills} after step {step}", flush=True)
            wait_until_restarted(process, set(workers))
        time.sleep(POLL_S)
    text = log.read_text(errors="replace")
    if process.returncode:
        raise RuntimeError(f"training ended with {process.returncode}:\n{text[-3000:]}")
    curve = {int(epoch): values for epoch, values in EPOCH.findall(text)}
    return Ended(curve, time.monotonic() - begun, kills)


def checkpoints_of(storage: Storage) -> Checkpoints:
    key = train_inputs(load_ring(SPEC, [f"storage={storage.uri}", *OVERRIDES]), storage).key
    return Checkpoints(storage, f"checkpoints/tabular/{key}")


def workers_of(pid: int) -> list[int]:
    """The pids of the training workers among what a process started."""
    root = find(pid)
    members = family(root, "no mark") if root else set()
    return sorted(m.pid for m in members if any("RayTrainWorker" in part for part in command(m)))


def wait_until_restarted(process: "subprocess.Popen[bytes]", killed: set[int]) -> None:
    """Until four workers train that were not there before, or all is over."""
    while process.poll() is None:
        workers = set(workers_of(process.pid))
        if len(workers) == 4 and not workers & killed:
            return
        time.sleep(POLL_S)


def main() -> None:
    """Run once undisturbed and once with kills, and write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        runs = []
        for name, num_kills in (("undisturbed", 0), ("killed", given.kills)):
            storage = Storage(f"{folder}/{name}")
            examples.main(["tabular", storage.uri])
            prepare = [sys.executable, "-m", "jobs.prepare", SPEC, f"storage={storage.uri}"]
            subprocess.run(prepare, cwd=ROOT, check=True)
            runs.append(trained(storage, Path(folder) / f"{name}.log", num_kills, random.Random(given.seed)))
    undisturbed, killed = runs
    differing = [epoch for epoch, values in undisturbed.curve.items() if killed.curve.get(epoch) != values]
    lines = [
        "# Training workers killed at random",
        "",
        f"`python -m benchmarks.random_kills --kills {given.kills} --seed {given.seed}`: `{SPEC}` with "
        f"{' '.join(OVERRIDES)}, 2 cores.",
        "",
        "| | undisturbed | killed |",
        "|---|---:|---:|",
        f"| workers killed by SIGKILL | 0 | {len(killed.kills)} |",
        f"| epochs reported | {len(undisturbed.curve)} | {len(killed.curve)} |",
        f"| epochs whose loss or metrics differ in four decimals | - | {len(differing)} |",
        f"| seconds | {undisturbed.seconds:.0f} | {killed.seconds:.0f} |",
        "",
        f"Killed after steps {', '.join(map(str, killed.kills))}. Last epoch: {killed.curve[NUM_EPOCHS]}.",
    ]
    print("\n".join(lines))
    Path(__file__).with_suffix(".md").write_text("\n".join([*lines, ""]))
    if differing or len(killed.kills) < given.kills:
        sys.exit(f"epochs {differing} differ, {len(killed.kills)} of {given.kills} kills")


if __name__ == "__main__":
    main()
