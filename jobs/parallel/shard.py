"""shard: every worker keeps a part of each weight and gathers the rest unit by unit (fully sharded data parallel).

PyTorch's FSDP2 (Zhao et al., 2023). With `replicate` it shards within each group and sums over the groups (HSDP).
"""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from cluster.layout import Layout
from jobs.parallel.mesh import data_mesh
from jobs.parallel.modules import matching
from jobs.workloads.partition import Partition


def check(layout: Layout, partition: Partition) -> None:
    """Any model can be sharded."""


def apply(parts: list[nn.Module], layout: Layout, partition: Partition, mesh: DeviceMesh | None) -> list[nn.Module]:
    """Shard each unit, then what is left of each part. Context peers take part: their gradients belong together."""
    over = data_mesh(layout, mesh) if mesh else None
    if over is None:
        return parts
    # A pipeline runs each part many times a step; to gather the weights again for each would cost more than it saves.
    reshard = layout.pipeline == 1
    for part in parts:
        for path, unit in matching(part, partition.units):
            if path:
                fully_shard(unit, mesh=over, reshard_after_forward=reshard)
        fully_shard(part, mesh=over, reshard_after_forward=reshard)
    return parts
