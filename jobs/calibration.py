"""calibration: the devices of this cluster as they were measured, kept in the storage by name.

devices/<name>.yaml
"""

import os
import re
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
import ray.train.torch
import torch

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.lifecycle import connected
from cluster.reservation import PlacedTrainer, check_room
from cluster.spec import dump
from cluster.storage import Storage
from jobs.known_devices import kept_devices
from jobs.search.device import Device, shipped
from jobs.search.microbenchmarks import measured_device
from jobs.spec import RingSpec
from jobs.worker_group import num_gpus, run_on_workers, workers_of

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def measured(spec: RingSpec, storage: Storage, name: str, num_workers: int, scratch: str) -> Device:
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


def calibrate(spec: RingSpec, storage: Storage, name: str, num_workers: int) -> str:
    """Measure on the cluster that is there, or on this machine; returns what was found as people read it."""
    with connected(), TemporaryDirectory() as scratch:
        found = measured(spec, storage, name, num_workers, scratch)
    return f"devices/{name}.yaml, as --devices {num_workers}x{name} calls it:\n{dump(found)}"
