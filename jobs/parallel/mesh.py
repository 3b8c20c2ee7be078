"""The device mesh of a layout: which ranks are peers on which axis."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from cluster.layout import AXES, Layout

SHARDED = "shard_context"
"""The axis over which weights are sharded where both `shard` and `context` split the data."""


def open_mesh(layout: Layout, device_type: str) -> DeviceMesh | None:
    """The mesh over all ranks of the process group, one axis for each of the layout that is not 1; None for one worker.

    Every rank calls it once: it makes the process groups.
    """
    axes = {axis: size for axis, size in zip(AXES, layout.sizes, strict=True) if size > 1}
    if not axes:
        return None
    mesh = init_device_mesh(device_type, tuple(axes.values()), mesh_dim_names=tuple(axes))
    groups = mesh.get_all_groups()
    if layout.shard > 1 and layout.context > 1:
        groups.append(mesh["shard", "context"]._flatten(SHARDED).get_group())
    _let_wait_as_all(groups, torch.device(device_type))
    return mesh


def _let_wait_as_all(groups: Sequence[ProcessGroup], device: torch.device) -> None:
    """Let groups of some workers wait no longer than the group of all does; torch gives them half an hour."""
    world: Any = dist.group.WORLD
    options = getattr(world._get_backend(device), "options", None)
    for group in groups:
        backend: Any = group._get_backend(device)
        if options is not None and hasattr(backend, "_set_default_timeout"):
            backend._set_default_timeout(options._timeout)


def end_groups() -> None:
    """End all process groups but that of all workers: torch keeps those of a mesh as long as the process lives.

    Every rank calls it, in the same order among collectives, once nothing uses a mesh any more.
    """
    if dist.is_initialized():
        made: Any = dist.distributed_c10d._world.pg_map  # there is no public list of them
        for group in [group for group in made if group is not dist.group.WORLD]:
            dist.destroy_process_group(group)


def data_mesh(layout: Layout, mesh: DeviceMesh) -> DeviceMesh | None:
    """The mesh over which weights are sharded, below `replicate` where there is that too; None where they are whole."""
    axis = sharding_axis(layout)
    if axis is None:
        return None
    with warnings.catch_warnings():
        # Torch wants flattened axes kept by hand, but gives no way to combine one kept so with another axis.
        warnings.filterwarnings("ignore", "Slicing a flattened dim")
        return mesh["replicate", axis] if layout.replicate > 1 else mesh[axis]


def sharding_axis(layout: Layout) -> str | None:
    """The axis over which weights are sharded. Context peers see different positions, so they too sum gradients."""
    if layout.shard > 1 and layout.context > 1:
        return SHARDED
    return "shard" if layout.shard > 1 else "context" if layout.context > 1 else None


def num_averaged(layout: Layout) -> int:
    """Over how many workers data parallelism takes the mean of gradients."""
    return layout.replicate * layout.shard * layout.context
