from pathlib import Path

import pytest

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.lifecycle import Cluster
from cluster.placement import Node
from cluster.storage import Storage
from jobs.calibration import calibrate, devices_like, measured, with_all_cpus
from jobs.devices import Devices, devices_of
from jobs.known_devices import kept_devices
from jobs.spec import RingSpec, load_ring
from jobs.worker_group import workers_of
from tests.jobs.search.test_forecast import device
from tests.jobs.search.test_layouts import SPECS


@pytest.fixture
def spec(tmp_path: Path) -> RingSpec:
    return load_ring(SPECS / "language.yaml", [f"storage={tmp_path / 'storage'}"])


@pytest.mark.parametrize("name", ["H100", "", "a/b", "../x"])
def test_a_measured_device_has_a_name_of_its_own(spec: RingSpec, name: str) -> None:
    with pytest.raises(SpecError, match="is no name for a measured device"):
        calibrate(spec, Storage(spec.storage), name, 2)


@pytest.mark.parametrize("num_workers", [-2, 0, 3])
def test_workers_are_measured_in_pairs(spec: RingSpec, num_workers: int) -> None:
    with pytest.raises(SpecError, match=f"--workers {num_workers}: they are measured in pairs"):
        calibrate(spec, Storage(spec.storage), "here", num_workers)


@pytest.mark.parametrize(
    ("overrides", "num_workers", "expected"),
    [
        ([], 1, Devices(1, 1)),
        ([], 2, Devices(16, 16)),
        (["placement.gpus_per_worker=2"], 2, Devices(16, 16)),
        (["train.device=cpu"], 2, Devices(16, 16)),
    ],
)
def test_devices_are_counted_of_the_kind_that_is_measured(
    overrides: list[str], num_workers: int, expected: Devices, tmp_path: Path
) -> None:
    given = load_ring(SPECS / "language.yaml", [f"storage={tmp_path}", *overrides])
    nodes = [Node("a", {"CPU": 16.0, "GPU": 1.0}, {}, "L4")]
    workers = workers_of(given, Layout(replicate=num_workers), 1.0)
    assert devices_like(workers, given, nodes) == expected


@pytest.mark.parametrize(("cores", "expected"), [(2.1, 6.0), (1.95, 6.0), (1.6, 1.6), (None, None)])
def test_workers_that_slow_their_peers_tell_how_many_compute_at_a_time(
    cores: float | None, expected: float | None
) -> None:
    found = with_all_cpus(device(4).model_copy(update={"cores": cores}), 2, Devices(6, 6))
    assert found.cores == expected


@pytest.mark.ray
def test_the_workers_of_a_cluster_are_measured(cluster: Cluster, spec: RingSpec, tmp_path: Path) -> None:
    storage = Storage(spec.storage)
    found = measured(spec, storage, "here", None, str(tmp_path))
    assert kept_devices(storage) == {"here": found}
    assert found.source.startswith("measured by 2 workers")
    assert found.memory_gib > 0.1
    assert found.devices_a_node == devices_of(spec).of_a_node > 2
    with pytest.raises(SpecError, match=r"--workers 1: .* tells nothing of messages, and there are \d+ devices"):
        measured(spec, storage, "here", 1, str(tmp_path))
