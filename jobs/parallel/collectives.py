"""What the workers of a process group tell each other; in a process without one, what it would tell itself."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

T = TypeVar("T")


def rank() -> int:
    """This worker's number, from 0 on; 0 where there is one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many workers there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_all(value: Tensor) -> Tensor:
    """The sum of a tensor over all workers, on each; the given one stays as it is."""
    total = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def from_first(value: T, group: ProcessGroup | None = None) -> T:
    """The value that the first worker has, on every worker.

    Args:
        value: what can be pickled.
        group: all workers once more, for a thread whose messages must not meet those of the default group.
    """
    if world_size() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, src=0, group=group)
    received: T = values[0]
    return received


def all_of(value: T) -> list[T]:
    """The value of every worker, by rank; it can be pickled."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def done_by_first(work: Callable[[], T], group: ProcessGroup | None = None) -> T:
    """What `work` returns where the first worker calls it, on every worker; likewise the error that it raises."""
    returned: T | None = None
    failed: Exception | None = None
    if rank() == 0:
        try:
            returned = work()
        except Exception as error:
            failed = error
    returned, failed = from_first((returned, failed), group)
    if failed:
        raise failed
    return returned  # type: ignore[return-value]  # None only where T is
