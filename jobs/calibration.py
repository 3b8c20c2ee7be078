"""calibration: the devices of this cluster as they were measured, kept in the storage by name.

devices/<name>.yaml
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import ray.train
import ray.train.torch
import torch

from cluster.errors import SpecError, nearest
from cluster.layout import Layout
from cluster.placement import Node
from cluster.reservation import PlacedTrainer, check_room
from cluster.spec import dump, parse
from cluster.storage import Storage
from jobs.search.device import Device, shipped, table_of
from jobs.search.microbenchmarks import measured_device
from jobs.spec import RingSpec
from jobs.worker_group import num_gpus, run_on_workers, workers_of

MEASURED = "measured"
"""The name of a device that is given none."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def calibrate(spec: RingSpec, storage: Storage, name: str, num_workers: int, scratch: str) -> Device:
    """Measure so many of the connected cluster's devices, all at once, and keep what was found.

    Args:
        scratch: a local folder for what Ray Train writes down.

    Raises:
        SpecError: the name cannot be one.
        InfeasibleError: there is no room for so many workers.
    """
    if not NAME.fullmatch(name) or name in shipped():
        raise SpecError(f"'{name}' is no name for a measured device: letters, digits, and not that of a data sheet")
    workers = workers_of(spec, Layout(replicate=num_workers), num_gpus())
    check_room(workers.layout, workers.demand)
    settings = {"storage": storage.uri, "name": name, "on_gpu": workers.on_gpu}
    run_on_workers(
        workers,
        PlacedTrainer,
        measure_on_worker,
        settings,
        name="calibrate",
        scratch=scratch,
        train=spec.train.model_copy(update={"max_failures": 0}),
    )
    return kept_devices(storage)[name]


def measure_on_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls on every worker."""
    device = ray.train.torch.get_device()
    context = ray.train.get_context()
    on_node = context.get_local_world_size()
    if settings["on_gpu"]:
        memory_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    else:
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 / on_node
    found = measured_device(device, on_node, memory_gib)
    if context.get_world_rank() == 0:
        Storage(settings["storage"]).write(f"devices/{settings['name']}.yaml", dump(found).encode())


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
    if MEASURED in kept and kept[MEASURED].is_cpu != on_gpu:
        return kept[MEASURED]
    if on_gpu:
        kinds = {node.gpu_type for node in fitting if node.total.get("GPU", 0.0)}
        return known.get(kinds.pop()) if len(kinds) == 1 else None
    memory, cpus = (sum(node.total.get(unit, 0.0) for node in fitting) for unit in ("memory", "CPU"))
    return known["CPU"].model_copy(update={"memory_gib": memory / 2**30 / max(cpus, 1), "cores": max(cpus, 1.0)})
