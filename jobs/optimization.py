"""Optimizers and learning-rate schedules by the names that a spec gives them."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from jobs.spec import OptimizerSpec, TrainSpec

LAST_SHARE = 0.01
"""Of the first learning rate, where `exponential` ends."""


def build_optimizer(spec: OptimizerSpec, parameters: Iterable[Tensor]) -> Optimizer:
    """The optimizer of a spec; the schedule sets its learning rate before each step."""
    rate, decay = spec.learning_rate, spec.weight_decay
    groups = _alike(parameters)
    match spec.name:
        case "adamw":
            return AdamW(groups, lr=rate, weight_decay=decay)
        case "adam":
            return Adam(groups, lr=rate, weight_decay=decay)
        case "sgd":
            return SGD(groups, lr=rate, weight_decay=decay, momentum=spec.momentum)


def _alike(parameters: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Parameters by the mesh they lie on: an optimizer moves those of a group together, which have to lie alike."""
    groups: dict[object, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        groups[parameter.device_mesh if isinstance(parameter, DTensor) else None].append(parameter)
    return [{"params": group} for group in groups.values()]


def learning_rate(spec: TrainSpec, step: int, num_steps: int) -> float:
    """The learning rate of a step: a pure function, so a resumed run needs no schedule state.

    `cosine` falls to 0 along half a period (Loshchilov and Hutter, 2017), `exponential` by a constant factor a step.
    """
    share = step / max(num_steps, 1)
    match spec.schedule:
        case "constant":
            factor = 1.0
        case "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * share))
        case "exponential":
            factor = LAST_SHARE**share
    return spec.optimizer.learning_rate * factor


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter group this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
