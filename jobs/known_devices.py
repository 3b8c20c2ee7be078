"""Devices by name: of data sheets, as they were measured (see `jobs.calibration`), and of a user's own table."""

from cluster.errors import SpecError, nearest
from cluster.spec import parse
from cluster.storage import Storage
from jobs.search.device import Device, shipped, table_of
from jobs.spec import RingSpec

MEASURED = "measured"
"""The name of a measured device that is given none."""


def kept_devices(storage: Storage) -> dict[str, Device]:
    """Those that were measured, by name."""
    files = storage.files("devices") if storage.exists("devices") else []
    paths = [str(info.path).rpartition("/")[2] for info in files]
    return {
        path.removesuffix(".yaml"): parse(Device, storage.read(f"devices/{path}").decode(), path)
        for path in paths
        if path.endswith(".yaml")
    }


def data_sheets(table: str) -> dict[str, Device]:
    """Those that come along, and those of a user's table, where there is one, besides or instead."""
    return shipped() | _own(table)


def known_devices(storage: Storage, table: str) -> dict[str, Device]:
    """All by name: of the user's table, of the storage or of the data sheets, in this order."""
    return shipped() | kept_devices(storage) | _own(table)


def device_foreseen(spec: RingSpec, storage: Storage) -> tuple[str, Device] | None:
    """The device that a spec will stand on, and its name, where that is known without looking at the cluster."""
    known = known_devices(storage, spec.tune.device_table)
    name = spec.placement.gpu_type or MEASURED
    return (name, for_a_worker(known[name], spec)) if name in known else None


def for_a_worker(device: Device, spec: RingSpec) -> Device:
    """What one worker has of it: of a GPU that several share, a part of the memory."""
    part = 1.0 if device.is_cpu else min(spec.placement.gpus_per_worker, 1.0)
    return device.model_copy(update={"memory_gib": device.memory_gib * part})


def _own(table: str) -> dict[str, Device]:
    return table_of(table) if table else {}


def device_of(name: str, storage: Storage, table: str) -> Device:
    """The device of a name; see `known_devices`.

    Raises:
        SpecError: there is none.
    """
    known = known_devices(storage, table)
    if name not in known:
        raise SpecError(
            f"no device '{name}' is known. {nearest(name, known)} Add a line for it to a file of the form of "
            "jobs/search/devices.yaml and name that (tune.device_table=FILE), or measure it: "
            "python -m jobs.search calibrate SPEC"
        )
    return known[name]
