"""calibration: the devices of this cluster as they were measured, kept in the storage by name.

devices/<name>.yaml
"""

import os
import re
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
import ray.train.torch
import torch

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.lifecycle import connected
from cluster.placement import Node
from cluster.reservation import PlacedTrainer, check_room, inventory
from cluster.spec import dump
from cluster.storage import Storage
from jobs.devices import Devices, counted
from jobs.known_devices import kept_devices
from jobs.search.device import Device, shipped
from jobs.search.microbenchmarks import measured_device
from jobs.spec import RingSpec
from jobs.worker_group import Workers, num_gpus, run_on_workers, workers_of

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


UNSLOWED = 1.05
"""Times as long as alone: workers that take less do not share a processor."""


def check_asked(name: str, num_workers: int | None) -> None:
    """Raise SpecError where the name cannot be one, or so many workers have nobody to speak to.

    Args:
        num_workers: see `calibrate`.
    """
    if not NAME.fullmatch(name) or name in shipped():
        raise SpecError(f"'{name}' is no name for a measured device: letters, digits, and not that of a data sheet")
    if num_workers is not None and (num_workers < 1 or (num_workers > 1 and num_workers % 2)):
        raise SpecError(f"--workers {num_workers}: they are measured in pairs; give an even number, or leave it out")


def measured(spec: RingSpec, storage: Storage, name: str, num_workers: int | None, scratch: str) -> Device:
    """Measure so many of the connected cluster's devices, all at once, and keep what was found.

    Args:
        num_workers: see `calibrate`.
        scratch: a local folder for what Ray Train writes down.

    Raises:
        SpecError: one worker would be measured where there are more.
        InfeasibleError: there is no room for so many workers.
    """
    nodes = inventory()
    devices = counted(spec, nodes)
    num_workers = num_workers or min(2, max(devices.number, 1))
    if num_workers == 1 < devices.number:
        raise SpecError(
            f"--workers 1: what one worker measures tells nothing of messages, and there are {devices.number} devices; "
            "give an even number, or leave it out"
        )
    workers = workers_of(spec, Layout(replicate=num_workers), num_gpus())
    check_room(workers.layout, workers.demand)
    standing_on = devices_like(workers, spec, nodes)
    settings = {"storage": storage.uri, "name": name, "on_gpu": workers.on_gpu, "devices": standing_on}
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


def devices_like(workers: Workers, spec: RingSpec, nodes: Sequence[Node]) -> Devices:
    """Those that the workers stand on: with `train.device=auto`, more workers than there are GPUs take CPUs."""
    train = spec.train.model_copy(update={"device": "gpu" if workers.on_gpu else "cpu"})
    return counted(spec.model_copy(update={"train": train}), nodes)


def measure_on_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls on every worker."""
    device = ray.train.torch.get_device()
    context, devices = ray.train.get_context(), settings["devices"]
    if settings["on_gpu"]:
        memory_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    else:
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 / devices.of_a_node
    found = measured_device(device, devices.of_a_node, memory_gib)
    found = with_all_cpus(found, context.get_world_size(), devices)
    if context.get_world_rank() == 0:
        Storage(settings["storage"]).write(f"devices/{settings['name']}.yaml", dump(found).encode())


def with_all_cpus(found: Device, num_workers: int, devices: Devices) -> Device:
    """The device with the processors of the whole cluster: those that do not slow each other saw only theirs."""
    if found.cores is None or num_workers / found.cores > UNSLOWED:
        return found
    return found.model_copy(update={"cores": max(found.cores, float(devices.number))})


def calibrate(spec: RingSpec, storage: Storage, name: str, num_workers: int | None) -> str:
    """Measure on the cluster that is there, or on this machine; returns what was found as people read it.

    Args:
        num_workers: an even number, or one where there is one device; None for two where there are two.

    Raises:
        SpecError: see `check_asked` and `measured`.
        InfeasibleError: there is no room for so many workers.
    """
    check_asked(name, num_workers)
    with connected(), TemporaryDirectory() as scratch:
        found = measured(spec, storage, name, num_workers, scratch)
    return f"devices/{name}.yaml, as --devices {found.devices_a_node}x{name} calls those of a node:\n{dump(found)}"
