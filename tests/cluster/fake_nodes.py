"""A program that starts a cluster of several nodes on this machine, with GPUs that are numbers alone, and trains there.

    python -m tests.cluster.fake_nodes TURN...      TURN: runs that start at the same time, as JSON

A run is a layout, `gpus` of a worker, and `by`, "us" or "ray". Prints a line of JSON a run: of each rank its node, as
the worker saw it, the GPUs it was given, and from when to when; or the error it ended with, after how many seconds.
A run `by` "tune" is a search with `trials`, runs as above that Tune ends once each has reported two times of four; its
line has them, their errors and the reservations that are left.
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
import ray.tune
from ray.cluster_utils import Cluster
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util import placement_group_table

from cluster.errors import ClusterError
from cluster.layout import Layout
from cluster.placement import Demand
from cluster.reservation import PlacedTrainer, TrialTrainer, check_room, trial_resources

NODES, GPUS = "abcd", 3
REMOVED_WITHIN_S = 60


def report_place(settings: dict[str, Any]) -> None:
    """What a worker does: say where it stands, all of ours at the same time, and hold its place for a moment."""
    context = ray.train.get_context()
    began = time.time()
    if settings["by"] == "us":
        import torch.distributed as dist  # seconds, for which Ray's own workers need not wait

        dist.barrier()
    for _ in range(4 if settings["by"] == "tune" else 1):
        time.sleep(1.0)
        seen = {
            "node": ray.get_runtime_context().get_node_id(),
            "gpus": ray.get_gpu_ids(),
            "local": [context.get_local_rank(), context.get_local_world_size(), context.get_node_rank()],
            "held": [began, time.time()],
        }
        (Path(settings["folder"]) / str(context.get_world_rank())).write_text(json.dumps(seen))
        if settings["by"] == "tune":
            ray.train.report({"seen": 1})


def train(address: str, told: str) -> None:
    """One run, as a driver of its own."""
    run = json.loads(told)
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    if run["by"] == "tune":
        search(run["trials"])
        return
    layout, each = parted(run)
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
        print(json.dumps(seen_of(Path(folder), layout)), flush=True)


def parted(run: dict[str, Any]) -> tuple[Layout, dict[str, float]]:
    """Its layout, and what each worker needs."""
    return Layout(**run["layout"]), {"CPU": 0.1, "GPU": run["gpus"]}


def seen_of(folder: Path, layout: Layout) -> list[dict[str, Any]]:
    """What the workers wrote down, with the names of the nodes."""
    untyped: Any = ray
    names = {node["NodeID"]: node["Labels"].get("name") for node in untyped.nodes()}
    seen = [json.loads((folder / str(rank)).read_text()) for rank in range(layout.num_workers)]
    return [{**each, "node": names[each["node"]]} for each in seen]


def try_out(run: dict[str, Any], folder: Path) -> None:
    """A trial."""
    folder.mkdir()
    layout, each = parted(run)
    TrialTrainer(
        layout,
        Demand(each),
        report_place,
        train_loop_config={"folder": str(folder), "by": "tune"},
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(storage_path=str(folder), callbacks=[TuneReportCallback()]),  # type: ignore[list-item]
        scaling_config=ScalingConfig(num_workers=layout.num_workers, use_gpu=True, resources_per_worker=each),
    ).fit()


def search(trials: Sequence[dict[str, Any]]) -> None:
    """A search over trials of several sizes, as many at once as there is room for."""
    with TemporaryDirectory() as name:
        folder = Path(name)

        def resources(config: dict[str, int]) -> ray.tune.PlacementGroupFactory:
            layout, each = parted(trials[config["number"]])
            return trial_resources(layout, Demand(each))

        def trial(config: dict[str, int]) -> None:
            try_out(trials[config["number"]], folder / str(config["number"]))

        results = ray.tune.Tuner(
            ray.tune.with_resources(trial, resources),
            param_space={"number": ray.tune.grid_search(list(range(len(trials))))},
            run_config=ray.tune.RunConfig(storage_path=f"{folder}/tune", stop={"training_iteration": 2}, verbose=0),
        ).fit()
        seen = [seen_of(folder / str(number), parted(run)[0]) for number, run in enumerate(trials)]
    print(json.dumps({"trials": seen, "errors": [str(error) for error in results.errors], "left": reservations_left()}))


def reservations_left() -> list[Any]:
    """Those that stay: Ray removes one a while after it was told to."""
    ends = time.monotonic() + REMOVED_WITHIN_S
    while True:
        left = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
        if not left or time.monotonic() > ends:
            return left
        time.sleep(0.1)


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
                printed, _ = run.communicate(timeout=600)
                print(printed.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
