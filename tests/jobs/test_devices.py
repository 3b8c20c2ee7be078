from pathlib import Path

import pytest

from cluster.placement import Node
from jobs.devices import Devices, counted
from jobs.spec import load_ring

SPEC = Path(__file__).parents[2] / "jobs/specs/recommender.yaml"
CPUS = [Node("a", {"CPU": 6.0}, {}), Node("b", {"CPU": 3.0}, {})]
GPUS = [Node("c", {"CPU": 6.0, "GPU": 4.0}, {}, "H100"), Node("d", {"CPU": 6.0, "GPU": 2.0}, {}, "L4")]


@pytest.mark.parametrize(
    ("overrides", "nodes", "devices"),
    [
        ([], CPUS, Devices(9, 6)),
        (["placement.cpus_per_worker=2"], CPUS, Devices(4, 3)),
        ([], [*CPUS, *GPUS], Devices(6, 4)),
        (["train.device=cpu"], [*CPUS, *GPUS], Devices(21, 6)),
        (["placement.gpu_type=L4"], GPUS, Devices(2, 2)),
        (["placement.gpus_per_worker=0.5"], GPUS, Devices(12, 8)),
        (["train.device=gpu"], CPUS, Devices(0, 0)),
        ([], [], Devices(0, 0)),
    ],
)
def test_devices_are_counted_in_workers(overrides: list[str], nodes: list[Node], devices: Devices) -> None:
    assert counted(load_ring(SPEC, ["storage=/nowhere", *overrides]), nodes) == devices
