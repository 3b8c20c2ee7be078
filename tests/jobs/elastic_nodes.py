"""A program that trains on a cluster whose nodes come and go, and writes down every step of every worker.

    python -m tests.jobs.elastic_nodes SPEC FOLDER

Of four nodes of two devices one is killed, another one is drained and then taken away, and two come back. FOLDER then
holds `steps/`, a file a step, worker and start, and `train.log`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import ray
from ray.cluster_utils import Cluster

from jobs import train
from jobs.parallel.collectives import from_first, rank, world_size
from jobs.parallel.feed import StepRows
from jobs.spec import load_ring
from jobs.training_step import StepResult, TrainingStep

NUM_NODES, DEVICES_A_NODE = 4, 2
STEPS_A_PHASE = 8
PREEMPTION = 2
"""Ray's reason to drain a node that is not idle."""
train_on_worker = train.train_on_worker


@contextmanager
def written_down(folder: Path) -> Iterator[None]:
    """Write each step of this process: a row is known by its first number. Slow, as long as there is `slow`."""
    start, workers = from_first(time.time_ns()), world_size()
    steps = folder / "steps"
    steps.mkdir(exist_ok=True)
    take: Callable[..., StepResult] = TrainingStep.__call__

    def noted(step: TrainingStep, rows: StepRows, number: int, wants_norm: bool) -> StepResult:
        result = take(step, rows, number, wants_norm)
        seen = [value for batch in rows.passes for value in batch["numbers"][batch["weight"] > 0][:, 0].tolist()]
        loss = float(step._parted.summed(result.summed_loss)) / rows.num_rows
        largest = max(len(batch["weight"]) for batch in rows.passes)
        note = {"rows": seen, "loss": loss, "largest_pass": largest}
        (steps / f"{start}-{workers}-{number}-{rank()}").write_text(json.dumps(note))
        if (folder / "slow").exists():
            time.sleep(0.2)
        return result

    with patch.object(TrainingStep, "__call__", noted):
        yield


def noting_worker(settings: dict[str, Any]) -> str | None:
    """What Ray Train calls on every worker here."""
    with written_down(Path(os.environ["ELASTIC_NODES_FOLDER"])):
        return train_on_worker(settings)


def starts(folder: Path) -> list[tuple[int, int]]:
    """Workers of each start that made a step, and steps that the first of them made; in their order."""
    found: dict[tuple[int, int], int] = {}
    for path in (folder / "steps").glob("*-0"):
        start, workers, _, _ = map(int, path.name.split("-"))
        found[start, workers] = found.get((start, workers), 0) + 1
    return [(workers, steps) for (_, workers), steps in sorted(found.items())]


def wait_for(folder: Path, run: subprocess.Popen[str], workers: Sequence[int]) -> None:
    """Until starts of so many workers followed each other, and the last of them has made some steps."""
    deadline_s = time.monotonic() + 150
    while [each for each, _ in starts(folder)] != [*workers] or starts(folder)[-1][1] < STEPS_A_PHASE:
        assert run.poll() is None, f"training ended with {run.returncode} before {workers} were seen"
        assert time.monotonic() < deadline_s, f"{workers} did not come, but {starts(folder)}"
        time.sleep(0.2)


def take_away(cluster: Cluster, node: Any, folder: Path, run: subprocess.Popen[str]) -> None:
    """Say that a node is about to go, as a cloud does, and let it go once training has left it."""
    client: Any = ray._raylet  # type: ignore[attr-defined]  # absent from Ray's stub
    in_a_minute_ms = int(1000 * (time.time() + 60))
    client.GcsClient(address=cluster.address).drain_node(node.node_id, PREEMPTION, "a test", in_a_minute_ms)
    wait_for(folder, run, [8, 6, 4])
    cluster.remove_node(node)


def disturb(cluster: Cluster, nodes: list[Any], folder: Path, run: subprocess.Popen[str]) -> None:
    """8, 6, 4 and 8 devices again, each while training is under way."""
    wait_for(folder, run, [8])
    cluster.remove_node(nodes[-1], allow_graceful=False)
    wait_for(folder, run, [8, 6])
    take_away(cluster, nodes[-2], folder, run)
    for _ in range(2):
        add_node(cluster)
    wait_for(folder, run, [8, 6, 4, 8])
    (folder / "slow").unlink()


def add_node(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=DEVICES_A_NODE, object_store_memory=100 * 2**20)


def main(arguments: Sequence[str]) -> None:
    if arguments[0] == "train":
        train.train_on_worker = noting_worker
        spec = load_ring(Path(arguments[1]), [])
        train.main([arguments[1], f"storage={spec.storage}"])
        return
    folder = Path(arguments[1])
    (folder / "slow").touch()
    with TemporaryDirectory(prefix="ray-") as scratch:
        os.environ.update(RAY_TMPDIR=scratch, ELASTIC_NODES_FOLDER=str(folder), RAY_health_check_period_ms="1000")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            nodes = [add_node(cluster) for _ in range(NUM_NODES)]
            cluster.wait_for_nodes()
            command = [sys.executable, "-m", "tests.jobs.elastic_nodes", "train", arguments[0]]
            environment = {**os.environ, "RAY_ADDRESS": str(cluster.address)}
            with (folder / "train.log").open("w") as log:
                run = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True)
                try:
                    disturb(cluster, nodes, folder, run)
                    assert run.wait(200) == 0
                finally:
                    run.kill()
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
