"""compiled: each unit compiled by torch.compile, so that layers of one shape share their code."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from cluster.errors import SpecError
from cluster.layout import Layout
from jobs.parallel.modules import matching
from jobs.parallel.pipeline import SPLITS_BACKWARD
from jobs.workloads.partition import Partition


def check(layout: Layout, partition: Partition) -> None:
    """Raise SpecError where torch cannot take a compiled backward pass apart."""
    if layout.compile and layout.pipeline > 1 and layout.schedule in SPLITS_BACKWARD:
        raise SpecError(
            f"layout.compile=true makes one piece of a unit's backward pass, which layout.schedule={layout.schedule} "
            "runs in two halves; give layout.schedule=1f1b or interleaved_1f1b"
        )


def apply(parts: list[nn.Module], layout: Layout, partition: Partition, mesh: DeviceMesh | None) -> list[nn.Module]:
    """Compile every unit in place, when it first runs."""
    if layout.compile:
        for part in parts:
            for _, unit in matching(part, partition.units):
                unit.compile()
    return parts
