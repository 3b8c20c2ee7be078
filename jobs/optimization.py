"""Optimizers and learning-rate schedules by the names that a spec gives them."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from jobs.spec import OptimizerSpec, TrainSpec

LAST_SHARE = 0.01
"""Of the first learning rate, where `exponential` ends."""
RATE_FACTOR = "rate_factor"
"""Of a parameter group: what its learning rate is multiplied by."""


def build_optimizer(
    spec: OptimizerSpec, parameters: Iterable[Tensor], factors: Mapping[Tensor, float] | None = None
) -> Optimizer:
    """The optimizer of a spec; the schedule sets its learning rate before each step.

    Args:
        factors: what the learning rate of some parameters is multiplied by.
    """
    rate = spec.learning_rate
    groups = _alike(spec, parameters, factors or {})
    match spec.name:
        case "adamw":
            return AdamW(groups, lr=rate)
        case "adam":
            return Adam(groups, lr=rate)
        case "rmsprop":
            return RMSprop(groups, lr=rate)
        case "sgd":
            return SGD(groups, lr=rate, momentum=spec.momentum)


def _alike(spec: OptimizerSpec, parameters: Iterable[Tensor], factors: Mapping[Tensor, float]) -> list[dict[str, Any]]:
    """Parameters that decay and move alike, by the mesh they lie on: an optimizer moves those of a group together,
    which have to lie alike."""
    groups: dict[tuple[object, float, float], list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        decay = spec.weight_decay if spec.decays == "all" or parameter.ndim > 1 else 0.0
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        groups[mesh, decay, factors.get(parameter, 1.0)].append(parameter)
    return [
        {"params": group, "weight_decay": decay, RATE_FACTOR: factor} for (_, decay, factor), group in groups.items()
    ]


def learning_rate(spec: TrainSpec, step: int, num_steps: int) -> float:
    """The learning rate of a step: a pure function, so a resumed run needs no schedule state.

    It rises through the warm-up, whose last step has the full rate. Then `linear` falls to 0 in equal parts, `cosine`
    along half a period (Loshchilov and Hutter, 2017), and `exponential` falls by a constant factor a step.
    """
    num_rising = round(spec.warmup * num_steps)
    if step < num_rising:
        return spec.optimizer.learning_rate * (step + 1) / num_rising
    share = (step - num_rising) / max(num_steps - num_rising, 1)
    match spec.schedule:
        case "constant":
            factor = 1.0
        case "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * share))
        case "exponential":
            factor = LAST_SHARE**share
        case "linear":
            factor = 1 - share
    return spec.optimizer.learning_rate * factor


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter group this rate, times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_FACTOR, 1.0)
