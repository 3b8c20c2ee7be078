"""What devices a cluster has for the workers of a spec: how many, and of which kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

from cluster.placement import Node
from cluster.reservation import inventory
from cluster.storage import Storage
from jobs.known_devices import MEASURED, data_sheets, for_a_worker, kept_devices
from jobs.search.device import Device
from jobs.spec import RingSpec


@dataclass(frozen=True)
class Devices:
    """Each of them is enough for one worker."""

    number: int
    of_a_node: int
    """On the node that has the most."""


def devices_of(spec: RingSpec) -> Devices:
    """Of the connected cluster: its GPUs where there are any and the spec may take them, else its CPUs."""
    return counted(spec, inventory())


def counted(spec: RingSpec, nodes: Sequence[Node]) -> Devices:
    """Of these nodes."""
    given, fitting = spec.placement, _fitting(spec, nodes)
    unit, each = ("CPU", given.cpus_per_worker)
    if _takes_gpus(spec, fitting):
        unit, each = ("GPU", given.gpus_per_worker)
    a_node = [floor(node.total.get(unit, 0.0) / each) for node in fitting]
    return Devices(sum(a_node), max(a_node, default=0))


def device_here(spec: RingSpec, storage: Storage, nodes: Sequence[Node]) -> Device | None:
    """What the workers of a spec stand on: as it was measured, or as a data sheet or a typical CPU is.

    Returns:
        None on GPUs of which nothing is known, or where no node is there yet that has room for a worker.
    """
    measured, sheets = kept_devices(storage).get(MEASURED), data_sheets(spec.tune.device_table)
    fitting = _fitting(spec, nodes)
    if _takes_gpus(spec, fitting):
        kinds = {node.gpu_type for node in fitting if node.total.get("GPU", 0.0)}
        sheet = sheets.get(kinds.pop()) if len(kinds) == 1 else None
        found = measured if measured and not measured.is_cpu else sheet
        return for_a_worker(found, spec) if found else None
    fitting = [node for node in fitting if node.total.get("CPU", 0.0) >= spec.placement.cpus_per_worker]
    # A worker alone may fill its node; what several take together, Ray's memory monitor sees to.
    memory_gib = max((node.total.get("memory", 0.0) for node in fitting), default=0.0) / 2**30
    if not memory_gib:
        return None
    if measured and measured.is_cpu:
        return measured.model_copy(update={"memory_gib": memory_gib})
    cpus = sum(node.total.get("CPU", 0.0) for node in fitting)
    return sheets["CPU"].model_copy(update={"memory_gib": memory_gib, "cores": max(cpus, 1.0)})


def _fitting(spec: RingSpec, nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if spec.placement.gpu_type in ("", node.gpu_type)]


def _takes_gpus(spec: RingSpec, fitting: Sequence[Node]) -> bool:
    has_gpus = any(node.total.get("GPU", 0.0) for node in fitting)
    return spec.train.device == "gpu" or (spec.train.device == "auto" and has_gpus)
