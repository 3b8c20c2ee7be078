from pathlib import Path

import pytest

from cluster.errors import SpecError
from cluster.lifecycle import Cluster
from cluster.storage import Storage
from jobs.calibration import measured
from jobs.known_devices import kept_devices
from jobs.spec import RingSpec, load_ring
from tests.jobs.search.test_layouts import SPECS


@pytest.fixture
def spec(tmp_path: Path) -> RingSpec:
    return load_ring(SPECS / "language.yaml", [f"storage={tmp_path / 'storage'}"])


@pytest.mark.parametrize("name", ["H100", "", "a/b", "../x"])
def test_a_measured_device_has_a_name_of_its_own(spec: RingSpec, name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is no name for a measured device"):
        measured(spec, Storage(spec.storage), name, 2, str(tmp_path))


@pytest.mark.ray
def test_the_workers_of_a_cluster_are_measured(cluster: Cluster, spec: RingSpec, tmp_path: Path) -> None:
    storage = Storage(spec.storage)
    found = measured(spec, storage, "here", 2, str(tmp_path))
    assert kept_devices(storage) == {"here": found}
    assert found.source.startswith("measured by 2 workers")
    assert found.memory_gib > 0.1
