from pathlib import Path

import pytest

from cluster.errors import SpecError
from cluster.spec import dump
from cluster.storage import Storage
from jobs.known_devices import device_foreseen, device_of, kept_devices
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


def test_the_device_is_known_without_a_cluster_where_it_was_measured_or_is_named(spec: RingSpec) -> None:
    storage = Storage(spec.storage)
    assert device_foreseen(spec, storage) is None
    storage.write("devices/measured.yaml", dump(device(3)).encode())
    assert device_foreseen(spec, storage) == ("measured", device(3))
    named = load_ring(SPECS / "language.yaml", [f"storage={spec.storage}", "placement.gpu_type=H100"])
    assert device_foreseen(named, storage) == ("H100", shipped()["H100"])
    shared = load_ring(
        SPECS / "language.yaml",
        [f"storage={spec.storage}", "placement.gpu_type=H100", "placement.gpus_per_worker=0.5"],
    )
    whole = shipped()["H100"]
    assert device_foreseen(shared, storage) == ("H100", whole.model_copy(update={"memory_gib": whole.memory_gib / 2}))
    other = load_ring(SPECS / "language.yaml", [f"storage={spec.storage}", "placement.gpu_type=B900"])
    assert device_foreseen(other, storage) is None
