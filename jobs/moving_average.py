"""An exponential moving average of the weights, kept beside what the optimizer keeps of each.

So checkpoints save it, and load it on any layout, like the optimizer's own state.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from jobs.parallel.checkpoint_state import AVERAGE


def decay_of(ema_decay: float, step: int) -> float:
    """The share of the average that a step leaves of it: less at first, as in TensorFlow's ExponentialMovingAverage.

    A pure function of the step's number, so that a resumed run needs no count of updates.
    """
    return min(ema_decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(optimizer: Optimizer, decay: float) -> None:
    """Let the averages follow the weights after the optimizer's step; the first of them are the weights.

    A weight that never had a gradient gets none, also because an optimizer takes a weight of which anything is kept
    for one that it has seen.
    """
    averages, weights = [], []
    for weight in _weights(optimizer):
        if AVERAGE in optimizer.state.get(weight, ()):
            averages.append(_local(optimizer.state[weight][AVERAGE]))
            weights.append(_local(weight))
        elif weight.grad is not None:
            optimizer.state[weight][AVERAGE] = weight.detach().clone()
    if averages:
        torch._foreach_lerp_(averages, weights, 1 - decay)


@contextmanager
def averages_as_weights(optimizer: Optimizer) -> Iterator[None]:
    """Inside, the weights are their averages where there are any, and the other way round."""
    _swap(optimizer)
    try:
        yield
    finally:
        _swap(optimizer)


@torch.no_grad()
def _swap(optimizer: Optimizer) -> None:
    """In place, since modules and views of shards hold on to the tensors."""
    for weight in _weights(optimizer):
        if AVERAGE in optimizer.state.get(weight, ()):
            one, other = _local(weight), _local(optimizer.state[weight][AVERAGE])
            before = one.clone()
            one.copy_(other)
            other.copy_(before)


def _weights(optimizer: Optimizer) -> Iterable[Tensor]:
    return (weight for group in optimizer.param_groups for weight in group["params"])


def _local(tensor: Tensor) -> Tensor:
    """This worker's part of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
