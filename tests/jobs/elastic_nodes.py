"""A program that trains on a cluster whose nodes come and go, and writes down every step of every worker.

    python -m tests.jobs.elastic_nodes STORY FOLDER SPEC [key.path=value ...]

`long`: of four nodes of two devices one is killed, another one is drained and then taken away, and two come back.
`short`: to one node another one comes, which is then drained. FOLDER then holds what `noted_steps` writes, and
`train.log`.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
PREEMPTION = 2
"""Ray's reason to drain a node that is not idle."""
FOLDER = "ELASTIC_NODES_FOLDER"
WaitFor = Callable[[Sequence[int]], None]
"""Until starts of so many workers followed each other, and the last of them has made some steps."""


def counts(folder: Path) -> list[tuple[int, int]]:
    """Workers of each start, and steps that the first of them has made; in their order."""
    found: dict[tuple[int, int], int] = {}
    for path in (folder / "steps").glob("*-0"):
        start, workers, _, _ = map(int, path.name.split("-"))
        found[start, workers] = found.get((start, workers), 0) + 1
    return [(workers, steps) for (_, workers), steps in sorted(found.items())]


def wait_for(folder: Path, run: subprocess.Popen[str], num_steps: int, workers: Sequence[int]) -> None:
    """See `WaitFor`."""
    deadline_s = time.monotonic() + 300
    while [each for each, _ in counts(folder)] != [*workers] or counts(folder)[-1][1] < num_steps:
        assert run.poll() is None, f"training ended with {run.returncode} before {workers} were seen"
        assert time.monotonic() < deadline_s, f"{workers} did not come, but {counts(folder)}"
        time.sleep(0.1)


def drain(cluster: Cluster, node: Any) -> None:
    """Say that a node is about to go, as a cloud does."""
    client: Any = ray._raylet
    in_two_minutes_ms = int(1000 * (time.time() + 120))
    client.GcsClient(address=cluster.address).drain_node(node.node_id, PREEMPTION, "a test", in_two_minutes_ms)


def long(cluster: Cluster, wait: WaitFor) -> None:
    """8, 6, 4 and 8 devices again, each while training is under way."""
    nodes = cluster.list_all_nodes()
    wait([8])
    cluster.remove_node(nodes[-1], allow_graceful=False)
    wait([8, 6])
    drain(cluster, nodes[-2])
    wait([8, 6, 4])
    cluster.remove_node(nodes[-2])
    for _ in range(2):
        add_node(cluster)
    wait([8, 6, 4, 8])


def short(cluster: Cluster, wait: WaitFor) -> None:
    """2, 4 and 2 devices again, with as few processes as there can be: each takes seconds to start."""
    wait([2])
    node = add_node(cluster)
    wait([2, 4])
    drain(cluster, node)
    wait([2, 4, 2])


@dataclass(frozen=True)
class Story:
    """What happens to nodes."""

    tell: Callable[[Cluster, WaitFor], None]
    num_nodes: int
    """At its beginning."""
    num_steps: int
    """Between what happens."""


STORIES = {
    "long": Story(long, 4, 11),  # enough for a checkpoint of every fifth to be there: the one after it waits for it
    "short": Story(short, 1, 3),
}


def add_node(cluster: Cluster) -> Any:
    """Begin to start one; several come at once, not one after the other."""
    return cluster.add_node(wait=False, **NODE)


def run_on_nodes(story: Story, folder: Path, arguments: Sequence[str]) -> None:
    """Train on nodes to which something happens."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        for _ in range(story.num_nodes - 1):
            add_node(cluster)
        cluster.wait_for_nodes()
        command = [sys.executable, "-m", "tests.jobs.elastic_nodes", "train", *arguments]
        environment = {**os.environ, "RAY_ADDRESS": str(cluster.address)}
        with (folder / "train.log").open("w") as log:
            run = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True)
            try:
                story.tell(cluster, partial(wait_for, folder, run, story.num_steps))
                (folder / "slow").unlink()
                assert run.wait(200) == 0
            finally:
                run.kill()
    finally:
        cluster.shutdown()


def main(arguments: Sequence[str]) -> None:
    if arguments[0] == "train":
        # Not at the top: what starts nodes needs none of it, and it takes seconds.
        from tests.jobs.noted_training import main as train

        sys.exit(train(Path(os.environ[FOLDER]), arguments[1:]))
    story, folder = STORIES[arguments[0]], Path(arguments[1])
    (folder / "slow").write_text(str(story.num_steps))
    with TemporaryDirectory(prefix="ray-") as scratch:
        os.environ.update({"RAY_TMPDIR": scratch, FOLDER: str(folder), "RAY_health_check_period_ms": "1000"})
        run_on_nodes(story, folder, arguments[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
