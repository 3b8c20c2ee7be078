"""tensor: the matrices of each layer split over a group of workers (Shoeybi et al., 2019).

A `column` layer computes some of the output features, the `row` layer after it takes those and sums over the group.
With `sequence_parallel` what lies between such pairs is split by sequence instead of done by all (Korthikanti et al.,
2022): norms see a stretch of the positions, blocks gather them all, `row` layers scatter their sum.
"""

from math import gcd
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from cluster.errors import SpecError
from cluster.layout import Layout
from jobs.parallel.modules import matches
from jobs.workloads.partition import Partition, TensorRole

POSITIONS = Shard(1)
"""Activations are [rows, positions, features]."""
HEADS_DIM = 2
"""Of what a `head_norm` takes: [rows, positions, heads, features]."""


def check(layout: Layout, partition: Partition) -> None:
    """Raise SpecError unless every split size divides."""
    if layout.sequence_parallel and layout.tensor == 1:
        raise SpecError(
            "layout.sequence_parallel=true splits sequences between tensor peers, but layout.tensor=1 has none; "
            "give layout.tensor=2 or more, or leave it out"
        )
    for key, size in partition.tensor_divides.items():
        if size % layout.tensor:
            shared = gcd(*partition.tensor_divides.values())
            fits = [n for n in range(1, shared + 1) if shared % n == 0]
            raise SpecError(
                f"layout.tensor={layout.tensor} does not divide {key}={size}; "
                f"give one of {', '.join(map(str, fits))}, or another {key}"
            )
    if layout.sequence_parallel:
        for key, size in partition.sequence_divides.items():
            pieces = layout.tensor * layout.context
            if size % pieces:
                raise SpecError(
                    f"layout.sequence_parallel=true splits {key}={size} over tensor={layout.tensor} x "
                    f"context={layout.context} = {pieces} workers, which does not divide; "
                    f"give {key}={-(-size // pieces) * pieces}"
                )


def apply(parts: list[nn.Module], layout: Layout, partition: Partition, mesh: DeviceMesh | None) -> list[nn.Module]:
    """Split the weights in place."""
    if layout.tensor > 1 and mesh is not None:
        for part in parts:
            for path, module in list(part.named_modules()):
                for pattern, role in partition.tensor.items():
                    if matches(path, pattern):
                        _split(module, role, mesh["tensor"], layout.sequence_parallel)
    return parts


def _split(module: nn.Module, role: TensorRole, mesh: DeviceMesh, by_sequence: bool) -> None:
    between = POSITIONS if by_sequence else Replicate()
    styles: dict[str, ParallelStyle] = {
        "column": ColwiseParallel(),
        "row": RowwiseParallel(output_layouts=between),
        "head": ColwiseParallel(input_layouts=between, output_layouts=Replicate()),
        # Each worker has other heads, so that the gradients of the one weight add up over the group.
        "head_norm": SequenceParallel(sequence_dim=HEADS_DIM, use_local_output=True),
    }
    if by_sequence:
        styles["norm"] = SequenceParallel(use_local_output=True)
    if role in styles:
        parallelize_module(module, mesh, styles[role])
    elif by_sequence and role == "block":
        module.register_forward_pre_hook(lambda _, inputs: (_gathered(inputs[0], mesh), *inputs[1:]))
    elif by_sequence and role == "embedding":
        module.register_forward_hook(lambda _, inputs, output: _stretch(output, mesh))


def _gathered(hidden: Tensor, mesh: DeviceMesh) -> Any:
    """All positions of a stretch's group, still a DTensor: so the gradients of the columns are summed only once."""
    return DTensor.from_local(hidden, mesh, [POSITIONS], run_check=False).redistribute(placements=[Replicate()])


def _stretch(hidden: Tensor, mesh: DeviceMesh) -> Tensor:
    """This worker's stretch of all positions."""
    whole = DTensor.from_local(hidden, mesh, [Replicate()], run_check=False)
    return whole.redistribute(placements=[POSITIONS]).to_local()
