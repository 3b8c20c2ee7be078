"""A search whose trials are gangs of several sizes, with workers, its driver and its memory taken from it meanwhile.

    OMP_NUM_THREADS=1 python -m benchmarks.gang_search [--trials 30] [--sizes 1,2,4,8] [--kills 2]

Two nodes on this machine, with four GPUs each that are numbers alone; the trials train on the CPU. ASHA stops weak
ones, `--kills` workers are killed at random, one width of the model takes more memory than there is, and the driver is
killed once and started again. What Ray has reserved is looked at ten times a second. Writes gang_search.md.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from cluster.layout import Layout
from cluster.placement import Demand
from cluster.processes import command, family, find
from cluster.storage import Storage
from jobs import prepare
from jobs.lineage import prepared_folder
from jobs.quality_trials import quality_trials
from jobs.search.ranking import Outlook
from jobs.search.trial import Trial
from jobs.spec import RingSpec, load_ring
from jobs.trial_run import Search, book_of
from jobs.worker_group import Workers

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "jobs/specs/recommender.yaml"
NODES, GPUS_A_NODE = 2, 4
NUM_USERS, NUM_ITEMS, RATINGS_A_USER = 60, 90, 40
TOO_WIDE = 10**11
NUM_EPOCHS = 4
FOLDER = "plans/gangs.search"
LAYOUTS = {1: {}, 2: {"shard": 2}, 4: {"replicate": 2, "shard": 2}, 8: {"replicate": 8}}
POLL_S = 0.1
LIMIT_S = 1800


class LogicalGpus(Workers):
    """Workers that hold GPUs which are numbers alone, and so train on the CPU."""

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def backend(self) -> str:
        return "gloo"


@dataclass
class Seen:
    """What was seen while the search went on."""

    most_gpus: float = 0.0
    """Reserved at a time."""
    sizes: set[int] = field(default_factory=set)
    """Of the gangs that were reserved."""
    killed: list[str] = field(default_factory=list)
    drivers_killed: int = 0


def write_raw(storage: Storage) -> None:
    """Users of an even number like even films."""
    generator = np.random.default_rng(0)
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(NUM_USERS):
        for place, film in enumerate(generator.choice(NUM_ITEMS, RATINGS_A_USER, replace=False)):
            rating = generator.choice([4.0, 4.5, 5.0] if (user + film) % 2 == 0 else [1.0, 2.0, 2.5])
            lines.append(f"{user},{film},{rating},{1_600_000_000 + 1000 * user + place}")
    storage.write("raw/ratings/ratings.csv", "\n".join([*lines, ""]).encode())
    films = [f"{film},film {film},{('Even', 'Odd')[film % 2]}" for film in range(NUM_ITEMS)]
    storage.write("raw/movies/movies.csv", "\n".join(["movieId,title,genres", *films, ""]).encode())


def spec_of(storage: Storage, num_trials: int) -> RingSpec:
    widths = [8, 10, 12, 14, 16, 18, 20, TOO_WIDE]
    space = f"{{workload.embedding_dim: {widths}, train.optimizer.learning_rate: {{low: 1e-3, high: 0.1, log: true}}}}"
    return load_ring(
        SPEC,
        [
            f"storage={storage.uri}",
            "seed=2",
            "workload.num_negatives=64",
            "train.batch_size=64",
            "train.device=cpu",
            f"tune={{num_trials: {num_trials}, num_epochs: {NUM_EPOCHS}, space: {space}}}",
            f"train.early_stopping.patience={NUM_EPOCHS}",
        ],
    )


def workers_of(number: int, sizes: list[int]) -> Workers:
    """Of each trial: of all sizes in turn."""
    return LogicalGpus(Layout(**LAYOUTS[sizes[number % len(sizes)]]), Demand({"CPU": 0.01, "GPU": 1.0}))


def foresee(spec: RingSpec, layout: Layout) -> Outlook:
    """The wider the model, the more memory."""
    return Outlook(layout, int(spec.workload.embedding_dim), None)  # type: ignore[union-attr]


def search_of(storage: Storage, num_trials: int, sizes: list[int]) -> Search:
    spec = spec_of(storage, num_trials)
    prepared = prepared_folder(spec, storage)
    return Search(spec, storage, prepared, FOLDER, partial(workers_of, sizes=sizes), foresee)


def drive(address: str, uri: str, num_trials: int, sizes: list[int]) -> None:
    """The driver: a process of its own, so that it can be killed."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    quality_trials(search_of(Storage(uri), num_trials, sizes))


@contextmanager
def nodes() -> Iterator[str]:
    """The address of the first of the nodes."""
    each = {"num_cpus": 4, "num_gpus": GPUS_A_NODE, "object_store_memory": 100 * 2**20}
    with TemporaryDirectory(prefix="ray-") as scratch, patch.dict(os.environ, {"RAY_TMPDIR": scratch}):
        cluster = Cluster(initialize_head=True, head_node_args=each)
        try:
            for _ in range(NODES - 1):
                cluster.add_node(**each)
            cluster.wait_for_nodes()
            yield str(cluster.address)
        finally:
            cluster.shutdown()


def reserved() -> list[dict[str, Any]]:
    """The reservations that there are, each with the GPUs it asks for and its state."""
    table: dict[str, Any] = placement_group_table()
    return [
        {"state": group["state"], "gpus": sum(bundle.get("GPU", 0.0) for bundle in group["bundles"].values())}
        for group in table.values()
        if group["state"] != "REMOVED"
    ]


def training_workers() -> list[int]:
    """The pids of gangs' workers among all that this process has started."""
    root = find(os.getpid())
    members = family(root, "no mark") if root else set()
    return sorted(each.pid for each in members if any("RayTrainWorker" in part for part in command(each)))


def watch(search: Search, driver: "subprocess.Popen[bytes]", seen: Seen, num_kills: int, is_last: bool) -> None:
    """Look on until the driver ends, killing workers on the way, and the driver too where it is not the last one."""
    generator = random.Random(len(seen.killed))
    began = time.monotonic()
    while driver.poll() is None:
        if time.monotonic() - began > LIMIT_S:
            driver.kill()
            raise TimeoutError(f"the search hangs: {search.trials()}")
        groups = [group for group in reserved() if group["state"] == "CREATED"]
        seen.most_gpus = max(seen.most_gpus, sum(group["gpus"] for group in groups))
        seen.sizes |= {int(group["gpus"]) for group in groups}
        trials = search.trials()
        num_ended = sum(trial.outcome != "under way" for trial in trials)
        is_due = len(seen.killed) < num_kills and num_ended >= 2 * len(seen.killed)
        workers = training_workers() if is_due else []
        if workers:
            os.kill(generator.choice(workers), signal.SIGKILL)
            seen.killed.append(f"after {num_ended} trials")
        is_amid = num_ended >= search.spec.tune.num_trials // 2 and num_ended < len(trials)
        if is_amid and not is_last:
            driver.kill()
            seen.drivers_killed += 1
            break
        time.sleep(POLL_S)
    driver.wait()


def searched(num_trials: int, sizes: list[int], num_kills: int) -> tuple[list[Trial], Seen, dict[str, Any], float]:
    """The trials, what was seen meanwhile, what is left afterwards, and how many seconds it took."""
    seen = Seen()
    with TemporaryDirectory() as folder, nodes() as address:
        storage = Storage(f"{folder}/storage")
        write_raw(storage)
        prepare.run(spec_of(storage, num_trials), storage)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        search = search_of(storage, num_trials, sizes)
        line = [sys.executable, "-m", "benchmarks.gang_search", "--drive", address, storage.uri]
        line += ["--trials", str(num_trials), "--sizes", ",".join(map(str, sizes))]
        began = time.monotonic()
        for is_last in (False, True):
            driver = subprocess.Popen(line, cwd=ROOT)
            watch(search, driver, seen, num_kills, is_last)
        took_s = time.monotonic() - began
        if driver.returncode:
            raise RuntimeError(f"the driver ended with {driver.returncode}")
        deadline = time.monotonic() + 30
        total = float(NODES * GPUS_A_NODE)
        while (reserved() or ray.available_resources().get("GPU", 0) < total) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        left = {"groups": len(reserved()), "gpus": ray.available_resources().get("GPU", 0.0)}
        trials = [*book_of(storage, FOLDER).read().values()]
        ray.shutdown()
    return trials, seen, left, took_s


def faults(trials: list[Trial], seen: Seen, left: dict[str, Any], num_trials: int, num_kills: int) -> list[str]:
    """What is not as it must be."""
    total = NODES * GPUS_A_NODE
    checks = {
        f"{len(trials)} trials are accounted for": len(trials) == num_trials,
        f"{seen.most_gpus:g} of {total} GPUs were reserved": seen.most_gpus <= total,
        f"{left['groups']} reservations are left": not left["groups"],
        f"{left['gpus']:g} GPUs are free": left["gpus"] == total,
        f"{seen.drivers_killed} drivers were killed": seen.drivers_killed == 1,
        f"{len(seen.killed)} workers were killed": len(seen.killed) == num_kills,
        "a trial has no end": not any(trial.outcome in ("under way", "died") for trial in trials),
    }
    return [what for what, holds in checks.items() if not holds]


def main() -> None:
    """Search, and write what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--drive", nargs=2, metavar=("ADDRESS", "STORAGE"), help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--sizes", default="1,2,4,8")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print what was seen, and write no table")
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    if given.drive:
        drive(*given.drive, given.trials, sizes)
        return
    trials, seen, left, took_s = searched(given.trials, sizes, given.kills)
    outcomes = Counter(trial.outcome for trial in trials)
    wrong = faults(trials, seen, left, given.trials, given.kills)
    if given.json:
        print(json.dumps({"wrong": wrong, "outcomes": outcomes, "most_gpus": seen.most_gpus}))
        return
    lines = [
        "# A search over gangs of several sizes",
        "",
        f"`python -m benchmarks.gang_search --trials {given.trials} --sizes {given.sizes} --kills {given.kills}`: "
        f"{NODES} nodes on one machine of 2 cores, {NODES * GPUS_A_NODE} GPUs that are numbers alone, no limit on "
        "trials at a time.",
        "",
        "| | |",
        "|---|---:|",
        f"| trials, of gangs of {given.sizes} workers in turn | {len(trials)} |",
        *(f"| of these {outcome} | {count} |" for outcome, count in outcomes.most_common()),
        f"| workers killed by SIGKILL | {len(seen.killed)} |",
        f"| drivers killed by SIGKILL | {seen.drivers_killed} |",
        f"| trials that were begun twice or more | {sum(trial.num_starts > 1 for trial in trials)} |",
        f"| most GPUs reserved at a time, of {NODES * GPUS_A_NODE} | {seen.most_gpus:g} |",
        f"| reservations left at the end | {left['groups']} |",
        f"| GPUs free at the end | {left['gpus']:g} |",
        f"| seconds | {took_s:.0f} |",
        "",
        f"Workers were killed {', '.join(seen.killed)}, whatever they were at: a gang that is starting is started "
        "anew by Ray Train within its trial, one that trains dies and its trial is begun again. The driver was killed "
        "once half of the trials had ended.",
    ]
    print("\n".join(lines))
    Path(__file__).with_suffix(".md").write_text("\n".join([*lines, ""]))
    if wrong:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
