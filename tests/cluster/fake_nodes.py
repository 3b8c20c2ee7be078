"""A program that starts a cluster of several nodes on this machine, with GPUs that are numbers alone, and trains there.

    python -m tests.cluster.fake_nodes TURN...      TURN: runs that start at the same time, as JSON

A run is a layout, `gpus` of a worker, and `by`, "us" or "ray". Prints a line of JSON a run: of each rank its node, as
the worker saw it, the GPUs it was given, and from when to when; or the error it ended with, after how many seconds.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import ray
import ray.train
from ray.cluster_utils import Cluster
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cluster.errors import ClusterError
from cluster.layout import Layout
from cluster.placement import Demand
from cluster.reservation import PlacedTrainer, check_room

NODES, GPUS = "abcd", 3


def report_place(settings: dict[str, Any]) -> None:
    """What a worker does: say where it stands, all of ours at the same time, and hold its place for a moment."""
    context = ray.train.get_context()
    began = time.time()
    if settings["by"] == "us":
        import torch.distributed as dist  # seconds, for which Ray's own workers need not wait

        dist.barrier()
    time.sleep(1.0)
    seen = {
        "node": ray.get_runtime_context().get_node_id(),
        "gpus": ray.get_gpu_ids(),
        "local": [context.get_local_rank(), context.get_local_world_size(), context.get_node_rank()],
        "held": [began, time.time()],
    }
    (Path(settings["folder"]) / str(context.get_world_rank())).write_text(json.dumps(seen))


def train(address: str, told: str) -> None:
    """One run, as a driver of its own."""
    run = json.loads(told)
    layout, each = Layout(**run["layout"]), {"CPU": 0.1, "GPU": run["gpus"]}
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    untyped: Any = ray
    names = {node["NodeID"]: node["Labels"].get("name") for node in untyped.nodes()}
    started = time.monotonic()
    try:
        check_room(layout, Demand(each))
    except ClusterError as error:
        print(json.dumps({"error": str(error), "after_s": time.monotonic() - started}), flush=True)
        return
    with TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "train_loop_config": {"folder": folder, "by": run["by"]},
            "run_config": RunConfig(storage_path=folder),
            "scaling_config": ScalingConfig(num_workers=layout.num_workers, use_gpu=True, resources_per_worker=each),
        }
        if run["by"] == "ray":
            DataParallelTrainer(report_place, **options).fit()
        else:
            torch_config = TorchConfig(backend="gloo")
            PlacedTrainer(layout, Demand(each), report_place, torch_config=torch_config, **options).fit()
        seen = [json.loads((Path(folder) / str(rank)).read_text()) for rank in range(layout.num_workers)]
    print(json.dumps([{**each, "node": names[each["node"]]} for each in seen]), flush=True)


@contextmanager
def nodes() -> Iterator[str]:
    """The address of a head without GPUs and the nodes."""
    with TemporaryDirectory(prefix="ray-") as scratch, patch.dict(os.environ, {"RAY_TMPDIR": scratch}):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
        try:
            for name in NODES:
                cluster.add_node(num_cpus=2, num_gpus=GPUS, labels={"name": name}, object_store_memory=100 * 2**20)
            cluster.wait_for_nodes()
            yield str(cluster.address)
        finally:
            cluster.shutdown()


def main(arguments: Sequence[str]) -> None:
    if arguments[0] == "train":
        train(*arguments[1:])
        return
    with nodes() as address:
        command = [sys.executable, "-m", "tests.cluster.fake_nodes", "train", address]
        for turn in arguments:
            runs = [
                subprocess.Popen([*command, json.dumps(run)], stdout=subprocess.PIPE, text=True)
                for run in json.loads(turn)
            ]
            for run in runs:
                printed, _ = run.communicate(timeout=300)
                print(printed.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
