from pathlib import Path

import pytest

from cluster.errors import SpecError
from cluster.placement import Node
from cluster.spec import dump
from cluster.storage import Storage
from jobs.known_devices import device_here, device_of, kept_devices
from jobs.search.device import shipped
from jobs.spec import RingSpec, load_ring
from tests.jobs.search.test_forecast import device
from tests.jobs.search.test_layouts import SPECS


@pytest.fixture
def spec(tmp_path: Path) -> RingSpec:
    return load_ring(SPECS / "language.yaml", [f"storage={tmp_path / 'storage'}"])


def test_what_was_measured_is_found_by_its_name(spec: RingSpec) -> None:
    storage = Storage(spec.storage)
    assert kept_devices(storage) == {}
    storage.write("devices/ours.yaml", dump(device(3)).encode())
    assert device_of("ours", storage, "") == device(3)
    assert device_of("H100", storage, "") == shipped()["H100"]


def test_a_users_table_goes_before_the_data_sheets(spec: RingSpec, tmp_path: Path) -> None:
    lines = "\n".join(f"    {line}" for line in dump(device(3)).splitlines())
    (tmp_path / "mine.yaml").write_text(f"devices:\n  H100:\n{lines}\n")
    assert device_of("H100", Storage(spec.storage), str(tmp_path / "mine.yaml")) == device(3)


def test_an_unknown_device_says_what_is_known_and_how_to_add_one(spec: RingSpec) -> None:
    with pytest.raises(SpecError, match=r"no device 'H1000'.*Did you mean 'H100'\?.*python -m jobs.search calibrate"):
        device_of("H1000", Storage(spec.storage), "")


def test_what_trains_here_is_what_was_measured_or_what_a_data_sheet_says(spec: RingSpec) -> None:
    storage = Storage(spec.storage)
    on_cpu = [Node("a", {"CPU": 4.0, "memory": 8 * 2**30}, {})]
    on_gpu = [Node("a", {"CPU": 4.0, "GPU": 2.0}, {}, "H100")]
    found = device_here(spec, storage, on_cpu)
    assert found is not None
    assert (found.memory_gib, found.cores) == (8, 4)
    assert device_here(spec, storage, on_gpu) == shipped()["H100"]
    assert device_here(spec, storage, [Node("a", {"GPU": 2.0}, {}, "B900")]) is None
    own = device(3).model_copy(update={"cores": 2.0})
    storage.write("devices/measured.yaml", dump(own).encode())
    assert device_here(spec, storage, on_cpu) == own.model_copy(update={"memory_gib": 8.0})
    assert device_here(spec, storage, on_gpu) == shipped()["H100"]
