"""replicate: every worker holds the whole of its part and trains on its rows of each global batch (data parallel)."""

from torch import nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from cluster.layout import Layout
from jobs.parallel.mesh import sharding_axis
from jobs.parallel.modules import matching
from jobs.workloads.partition import Partition


def check(layout: Layout, partition: Partition) -> None:
    """Any model can be replicated."""


def apply(parts: list[nn.Module], layout: Layout, partition: Partition, mesh: DeviceMesh | None) -> list[nn.Module]:
    """Average gradients over the replicas; `shard` does so itself where weights are sharded as well.

    DistributedDataParallel overlaps best, but knows neither split weights nor several parts a worker.
    """
    if layout.replicate == 1 or mesh is None or sharding_axis(layout):
        return parts
    if layout.num_workers == layout.replicate:
        return [DistributedDataParallel(part) for part in parts]
    for part in parts:
        for path, unit in matching(part, partition.units):
            if path:
                replicate(unit, mesh=mesh["replicate"])
        replicate(part, mesh=mesh["replicate"])
    return parts
