"""replicate: every worker holds the whole model and trains on its part of each global batch (data parallel)."""

from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def rank() -> int:
    """This worker's replica index; 0 where there is one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_replicas() -> int:
    """How many workers train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def replicate(model: nn.Module) -> nn.Module:
    """The model with its gradients averaged over all workers; itself where there is one."""
    return DistributedDataParallel(model) if num_replicas() > 1 else model


def mean_over_batch(summed_loss: Tensor, batch_rows: int) -> Tensor:
    """The loss whose averaged gradient is that of the mean over the global batch, however its rows are dealt out.

    Args:
        summed_loss: the loss summed over this worker's rows [].
        batch_rows: rows of the global batch, over all workers.
    """
    return summed_loss * (num_replicas() / batch_rows)


def sum_over_replicas(value: Tensor) -> Tensor:
    """The sum of a tensor over all workers."""
    total = value.detach().clone()
    if num_replicas() > 1:
        dist.all_reduce(total)
    return total


def from_first(value: T) -> T:
    """The value that the first worker has, on every worker."""
    if num_replicas() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, src=0)
    received: T = values[0]
    return received
