"""recompute: the activations inside each unit are computed again in the backward pass, not kept (Chen et al., 2016)."""

from torch import nn
from torch.distributed._composable.checkpoint_activation import checkpoint
from torch.distributed.device_mesh import DeviceMesh

from cluster.errors import SpecError
from cluster.layout import Layout
from jobs.parallel.modules import matching
from jobs.parallel.pipeline import SPLITS_BACKWARD
from jobs.workloads.partition import Partition


def check(layout: Layout, partition: Partition) -> None:
    """Raise SpecError where the schedule takes the backward pass apart."""
    if layout.recompute and layout.pipeline > 1 and layout.schedule in SPLITS_BACKWARD:
        raise SpecError(
            f"layout.recompute=true computes a unit's activations again in its backward pass, which "
            f"layout.schedule={layout.schedule} runs in two halves; give layout.schedule=1f1b or interleaved_1f1b"
        )


def apply(parts: list[nn.Module], layout: Layout, partition: Partition, mesh: DeviceMesh | None) -> list[nn.Module]:
    """Mark every unit."""
    if layout.recompute:
        for part in parts:
            for _, unit in matching(part, partition.units):
                checkpoint(unit)
    return parts
