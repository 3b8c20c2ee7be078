"""The norm of all gradients of a model that lies in parts on many workers, and clipping by it."""

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.utils import get_total_norm


def gradient_norm(parameters: Iterable[Tensor], mesh: DeviceMesh | None) -> Tensor:
    """The 2-norm of the gradients of the whole model []; the same on every worker, all of which call it."""
    groups: dict[tuple[DeviceMesh | None, tuple[int, ...]], list[Tensor]] = defaultdict(list)
    device: torch.device | None = None
    for parameter in parameters:
        device, grad = parameter.device, parameter.grad
        if isinstance(grad, DTensor):
            # Torch leaves the sum over a tensor group's stretches to whoever needs it.
            whole = [Replicate() if placement.is_partial() else placement for placement in grad.placements]
            grad = parameter.grad = grad.redistribute(placements=whole)
            split = tuple(dim for dim, placement in enumerate(whole) if not placement.is_replicate())
            groups[grad.device_mesh, split].append(grad.to_local())
        elif grad is not None:
            groups[None, ()].append(grad)
    squared = torch.zeros((), device=device)
    for (over, split), grads in groups.items():
        part = get_total_norm(grads).square()
        for dim in split:
            assert over is not None
            dist.all_reduce(part, group=over.get_group(dim))
        squared += part
    if mesh is not None and "pipeline" in (mesh.mesh_dim_names or ()):
        dist.all_reduce(squared, group=mesh["pipeline"].get_group())
    return squared.sqrt()


def scale_gradients(parameters: Iterable[Tensor], factor: Tensor | float) -> None:
    """Multiply every gradient."""
    local = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in parameters if p.grad is not None]
    if local:
        torch._foreach_mul_(local, factor)


def clip_factor(norm: Tensor, most: float) -> Tensor:
    """What gradients of this norm are multiplied by, so that none has more than `most` (Pascanu et al., 2013) []."""
    return (most / (norm + 1e-6)).clamp(max=1.0)
