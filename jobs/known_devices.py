"""Devices by name: of data sheets, as they were measured (see `jobs.calibration`), and of a user's own table."""

from collections.abc import Sequence

from cluster.errors import SpecError, nearest
from cluster.placement import Node
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


def device_of(name: str, storage: Storage, table: str) -> Device:
    """The device of a name: of the user's table, of the storage or of the data sheets, in this order.

    Raises:
        SpecError: there is none.
    """
    known = shipped() | kept_devices(storage) | (table_of(table) if table else {})
    if name not in known:
        raise SpecError(
            f"no device '{name}' is known. {nearest(name, known)} Add a line for it to a file of the form of "
            "jobs/search/devices.yaml and name that (tune.device_table=FILE), or measure it: "
            "python -m jobs.search calibrate SPEC"
        )
    return known[name]


def device_here(spec: RingSpec, storage: Storage, nodes: Sequence[Node]) -> Device | None:
    """What the workers of a spec stand on: as it was measured, or as a data sheet or a typical CPU is.

    Returns:
        None on GPUs of which nothing is known.
    """
    kept, known = kept_devices(storage), shipped()
    if spec.tune.device_table:
        known |= table_of(spec.tune.device_table)
    fitting = [node for node in nodes if spec.placement.gpu_type in ("", node.gpu_type)]
    on_gpu = spec.train.device == "gpu" or any(node.total.get("GPU", 0.0) for node in fitting)
    on_gpu = on_gpu and spec.train.device != "cpu"
    if on_gpu and MEASURED in kept and not kept[MEASURED].is_cpu:
        return kept[MEASURED]
    if on_gpu:
        kinds = {node.gpu_type for node in fitting if node.total.get("GPU", 0.0)}
        return known.get(kinds.pop()) if len(kinds) == 1 else None
    # A worker alone may fill its node; what several take together, Ray's memory monitor sees to.
    memory_gib = max((node.total.get("memory", 0.0) for node in fitting), default=0.0) / 2**30
    if MEASURED in kept and kept[MEASURED].is_cpu:
        return kept[MEASURED].model_copy(update={"memory_gib": memory_gib})
    cpus = sum(node.total.get("CPU", 0.0) for node in fitting)
    return known["CPU"].model_copy(update={"memory_gib": memory_gib, "cores": max(cpus, 1.0)})
