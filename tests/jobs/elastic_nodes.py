"""A program that trains on a cluster whose nodes come and go, and writes down every step of every worker.

    python -m tests.jobs.elastic_nodes FOLDER SPEC [key.path=value ...]

Of four nodes of two devices one is killed, another one is drained and then taken away, and two come back. FOLDER then
holds what `noted_steps` writes, and `train.log`.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.cluster_utils import Cluster

from jobs import train
from tests.jobs.noted_steps import counts, written_down

NUM_NODES, DEVICES_A_NODE = 4, 2
STEPS_A_PHASE = 11
"""Enough for a checkpoint of every fifth to be there: the one after it waits for it."""
PREEMPTION = 2
"""Ray's reason to drain a node that is not idle."""
FOLDER = "ELASTIC_NODES_FOLDER"
train_on_worker = train.train_on_worker


def noting_worker(settings: dict[str, Any]) -> str | None:
    """What Ray Train calls on every worker here."""
    with written_down(Path(os.environ[FOLDER])):
        return train_on_worker(settings)


def wait_for(folder: Path, run: subprocess.Popen[str], workers: Sequence[int]) -> None:
    """Until starts of so many workers followed each other, and the last of them has made some steps."""
    deadline_s = time.monotonic() + 150
    while [each for each, _ in counts(folder)] != [*workers] or counts(folder)[-1][1] < STEPS_A_PHASE:
        assert run.poll() is None, f"training ended with {run.returncode} before {workers} were seen"
        assert time.monotonic() < deadline_s, f"{workers} did not come, but {counts(folder)}"
        time.sleep(0.2)


def take_away(cluster: Cluster, node: Any, folder: Path, run: subprocess.Popen[str]) -> None:
    """Say that a node is about to go, as a cloud does, and let it go once training has left it."""
    client: Any = ray._raylet
    in_two_minutes_ms = int(1000 * (time.time() + 120))
    client.GcsClient(address=cluster.address).drain_node(node.node_id, PREEMPTION, "a test", in_two_minutes_ms)
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


def run_on_nodes(folder: Path, arguments: Sequence[str]) -> None:
    """Train on four nodes that are disturbed."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [add_node(cluster) for _ in range(NUM_NODES)]
        cluster.wait_for_nodes()
        command = [sys.executable, "-m", "tests.jobs.elastic_nodes", "train", *arguments]
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


def main(arguments: Sequence[str]) -> None:
    if arguments[0] == "train":
        train.train_on_worker = noting_worker
        sys.exit(train.main(arguments[1:]))
    folder = Path(arguments[0])
    (folder / "slow").touch()
    with TemporaryDirectory(prefix="ray-") as scratch:
        os.environ.update({"RAY_TMPDIR": scratch, FOLDER: str(folder), "RAY_health_check_period_ms": "1000"})
        run_on_nodes(folder, arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
