"""What a checkpoint of a spec holds, by names and shapes: whether training with one spec can go on from another's."""

import torch

from jobs.features.transform import Transform
from jobs.moving_average import decay_of, update
from jobs.optimization import build_optimizer
from jobs.parallel.checkpoint_state import training_state
from jobs.spec import RingSpec
from jobs.trainable import make_trainable
from jobs.weight_names import without_weights

Shapes = dict[str, tuple[int, ...]]


def kept_state(spec: RingSpec, transform: Transform) -> Shapes:
    """The shape of every weight, and of all that the optimizer keeps of it once it has moved it.

    On the device `meta`: one step without numbers, so that the largest model takes no memory.
    """
    model = without_weights(spec.workload, transform)
    make_trainable(model, spec.train)
    optimizer = build_optimizer(spec.train.optimizer, model.parameters())
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    if spec.train.ema_decay is not None:
        update(optimizer, decay_of(spec.train.ema_decay, 0))
    state = training_state(model, optimizer)
    kept = {f"{key} of {name}": value for name, values in state["optimizer"].items() for key, value in values.items()}
    return {name: tuple(value.shape) for name, value in (state["model"] | kept).items()}
