"""Placements in a real Ray: four nodes of three GPUs that are numbers alone, and workers that really train."""

import inspect
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.train.v2.api import data_parallel_trainer

pytestmark = pytest.mark.timeout(1200)  # the first one waits for all runs: 504 s on a busy machine
ROOT = Path(__file__).parents[2]
EIGHT = {"layout": {"tensor": 2, "replicate": 4}, "gpus": 1.0, "by": "us"}
FOUR = {"layout": {"tensor": 2, "pipeline": 2}, "gpus": 1.0, "by": "us"}
"""Beside the eight they take the last GPU."""
SHARED = {"layout": {"tensor": 4}, "gpus": 0.5, "by": "us"}
TOO_WIDE = {"layout": {"tensor": 4}, "gpus": 1.0, "by": "us"}
TOO_MANY = {"layout": {"replicate": 13}, "gpus": 1.0, "by": "us"}
BY_RAY = {**EIGHT, "by": "ray"}
TRIALS = [{"layout": {"tensor": 2, "replicate": 2}, "gpus": 1.0}, {"layout": {"replicate": 3}, "gpus": 3.0}]
"""Of thirteen GPUs in all, where there are twelve."""
TURNS = ([EIGHT, FOUR], [BY_RAY, SHARED, TOO_WIDE, TOO_MANY], [{"by": "tune", "trials": TRIALS}])

Worker = dict[str, Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What came of each run, turn by turn."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        command = [sys.executable, "-m", "tests.cluster.fake_nodes", *map(json.dumps, TURNS)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", "{"))]


def split_groups(workers: list[Worker], size: int) -> int:
    """How many groups of neighbouring ranks stand on more than one node."""
    groups = [workers[first : first + size] for first in range(0, len(workers), size)]
    return sum(len({worker["node"] for worker in group}) > 1 for group in groups)


def assert_never_shared(workers: list[Worker]) -> None:
    """No two of them held a GPU at the same time."""
    for one, other in combinations(workers, 2):
        is_same = one["node"] == other["node"] and set(one["gpus"]) & set(other["gpus"])
        (begin, end), (other_begin, other_end) = one["held"], other["held"]
        assert not is_same or end <= other_begin or other_end <= begin


@pytest.mark.ray
def test_no_tensor_group_is_split_where_ray_itself_splits_one_of_four(runs: list[Any]) -> None:
    eight, four, by_ray, shared, *_ = runs
    assert split_groups(eight, 2) == split_groups(four, 2) == split_groups(shared, 4) == 0
    assert split_groups(by_ray, 2) >= 1


@pytest.mark.ray
def test_two_runs_at_once_never_hold_the_same_gpu(runs: list[Any]) -> None:
    assert_never_shared([*runs[0], *runs[1]])


@pytest.mark.ray
def test_ranks_are_told_their_place_by_node_and_not_by_address(runs: list[Any]) -> None:
    """All these nodes have one address."""
    for workers in runs[0], runs[1], runs[3]:
        nodes = list(dict.fromkeys(worker["node"] for worker in workers))
        for node in nodes:
            local = [worker["local"] for worker in workers if worker["node"] == node]
            assert local == [[place, len(local), nodes.index(node)] for place in range(len(local))]


@pytest.mark.ray
def test_what_cannot_fit_is_told_and_not_waited_for(runs: list[Any]) -> None:
    too_wide, too_many = runs[4], runs[5]
    assert "the 4 of a tensor group stand on one node, with 0.4 CPUs and 4 GPUs" in too_wide["error"]
    assert "13 GPUs in all; 12 are there on 5 nodes" in too_many["error"]
    assert max(too_wide["after_s"], too_many["after_s"]) < 60  # Ray would wait for ever


@pytest.mark.ray
def test_trials_of_several_sizes_train_in_their_own_reservations_and_leave_none(runs: list[Any]) -> None:
    search = runs[6]
    four, three = search["trials"]
    assert search["errors"] == []
    assert search["left"] == []
    assert split_groups(four, 2) == 0
    assert len({worker["node"] for worker in three}) == 3
    assert_never_shared([*four, *three])


def test_what_is_overridden_is_where_it_was_in_ray() -> None:
    """A new release of Ray may move it; cluster/reservation.py must then follow."""
    assert TrainController.worker_group_cls is WorkerGroup
    assert data_parallel_trainer.TrainController is TrainController
    created = inspect.signature(WorkerGroup._create_workers).parameters
    assert [*created][:5] == [
        *("self", "num_workers", "placement_group", "resources_per_worker", "placement_group_bundle_indices")
    ]
    assert [*inspect.signature(WorkerGroup._create_placement_group).parameters] == [
        *("self", "scaling_config", "worker_group_context")
    ]
    started = inspect.getsource(WorkerGroup._start_impl)
    assert "self._create_workers(" in started
    assert "self._create_placement_group(" in started
    assert "TrainController" in inspect.getsource(
        data_parallel_trainer.DataParallelTrainer._initialize_and_run_controller
    )
