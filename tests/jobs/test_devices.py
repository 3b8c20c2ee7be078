from pathlib import Path

import pytest

from cluster.placement import Node
from cluster.spec import dump
from cluster.storage import Storage
from jobs.devices import Devices, counted, device_here
from jobs.search.device import shipped
from jobs.spec import load_ring
from tests.jobs.search.test_forecast import device

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


def test_what_trains_here_is_what_was_measured_or_what_a_data_sheet_says(tmp_path: Path) -> None:
    spec = load_ring(SPEC, [f"storage={tmp_path}"])
    storage = Storage(spec.storage)
    on_cpu = [Node("a", {"CPU": 4.0, "memory": 8 * 2**30}, {})]
    on_gpu = [Node("a", {"CPU": 4.0, "GPU": 2.0}, {}, "H100")]
    found = device_here(spec, storage, on_cpu)
    assert found is not None
    assert (found.memory_gib, found.cores) == (8, 4)
    assert device_here(spec, storage, on_gpu) == shipped()["H100"]
    assert device_here(spec, storage, [Node("a", {"GPU": 2.0}, {}, "B900")]) is None
    assert device_here(spec, storage, [Node("head", {"CPU": 0.0, "memory": 8 * 2**30}, {})]) is None
    own = device(3).model_copy(update={"cores": 2.0})
    storage.write("devices/measured.yaml", dump(own).encode())
    assert device_here(spec, storage, on_cpu) == own.model_copy(update={"memory_gib": 8.0})
    assert device_here(spec, storage, on_gpu) == shipped()["H100"]


def test_workers_that_share_a_gpu_have_a_part_of_its_memory(tmp_path: Path) -> None:
    shared = load_ring(SPEC, [f"storage={tmp_path}", "placement.gpus_per_worker=0.25"])
    on_gpu = [Node("a", {"CPU": 4.0, "GPU": 2.0}, {}, "H100")]
    whole = shipped()["H100"]
    found = device_here(shared, Storage(shared.storage), on_gpu)
    assert found == whole.model_copy(update={"memory_gib": whole.memory_gib / 4})
    two = load_ring(SPEC, [f"storage={tmp_path}", "placement.gpus_per_worker=2"])
    assert device_here(two, Storage(two.storage), on_gpu) == whole  # a worker computes on one of them


def test_a_users_table_leaves_the_data_sheets_as_they_are(tmp_path: Path) -> None:
    lines = "\n".join(f"    {line}" for line in dump(device(3)).splitlines())
    (tmp_path / "mine.yaml").write_text(f"devices:\n  H100:\n{lines}\n")
    spec = load_ring(SPEC, [f"storage={tmp_path}", f"tune.device_table={tmp_path / 'mine.yaml'}"])
    on_gpu = [Node("a", {"GPU": 2.0}, {}, "H100")]
    assert device_here(spec, Storage(spec.storage), on_gpu) == device(3)
    assert shipped()["H100"] != device(3)
