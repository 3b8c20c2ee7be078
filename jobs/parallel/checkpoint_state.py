"""The numbers of a training run, by names that every layout shares: weights, and what the optimizer keeps of each.

The optimizer's state is named here and not by torch's `get_optimizer_state_dict`, which makes up the state of a weight
that has none by a step of its own: Adam would count that step, and a weight that never got a gradient could not be
loaded again. The optimizer's settings are left out: they are the spec's, and its learning rate is the schedule's.
"""

from collections import defaultdict
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import STORAGE_TYPES, Metadata, TensorStorageMetadata
from torch.optim import Optimizer

AVERAGE = "average"
"""What the moving average of a weight goes by among what the optimizer keeps of it; see `jobs.moving_average`."""


class State(TypedDict):
    """What a checkpoint holds of the part of a model that a worker has; tensors may be DTensors."""

    model: dict[str, Tensor]
    optimizer: dict[str, dict[str, Tensor]]
    """By weight, then by the optimizer's own word: `exp_avg`, `step`. None of a weight that never got a gradient."""


def training_state(model: nn.Module, optimizer: Optimizer) -> State:
    """The tensors themselves, no copies."""
    weights = model.state_dict()  # first: it takes gathered weights back to the shards that the optimizer knows
    names = _names(model)
    kept = {
        name: {key: value for key, value in values.items() if value is not None}
        for parameter, values in optimizer.state.items()
        for name in names[parameter]
    }
    return {"model": weights, "optimizer": kept}


def state_to_fill(model: nn.Module, metadata: Metadata) -> State:
    """The model's own tensors, and new ones for what the optimizer kept when the checkpoint was saved.

    Raises:
        ValueError: it kept something other than single numbers and tensors of its weight's shape.
    """
    weights = model.state_dict()
    saved: dict[str, dict[str, STORAGE_TYPES]] = defaultdict(dict)
    for flat_name, path in metadata.planner_data.items():
        if path[0] == "optimizer":
            _, name, key = path
            saved[name][key] = metadata.state_dict_metadata[flat_name]
    kept = {
        name: {key: _room_for(stored, parameter, f"{name}.{key}") for key, stored in saved[name].items()}
        for parameter, names in _names(model).items()
        for name in names
        if name in saved
    }
    return {"model": weights, "optimizer": kept}


def weights_to_fill(model: nn.Module, metadata: Metadata) -> State:
    """The tensors of a whole model, each to be filled with the weight's average where the checkpoint has one."""
    averaged = _averaged(metadata)
    weights = model.state_dict()
    return {
        "model": {name: value for name, value in weights.items() if name not in averaged},
        "optimizer": {name: {AVERAGE: value} for name, value in weights.items() if name in averaged},
    }


def saved_weights(metadata: Metadata, device: str) -> State:
    """New tensors for every weight that a checkpoint holds, each its average where there is one; not filled."""
    averaged = _averaged(metadata)
    found = State(model={}, optimizer={})
    for flat_name, path in metadata.planner_data.items():
        stored = metadata.state_dict_metadata[flat_name]
        if path[0] != "model" or not isinstance(stored, TensorStorageMetadata):
            continue
        room = torch.empty(stored.size, dtype=stored.properties.dtype, device=device)
        if path[1] in averaged:
            found["optimizer"][path[1]] = {AVERAGE: room}
        else:
            found["model"][path[1]] = room
    return found


def put_state(model: nn.Module, optimizer: Optimizer, state: State) -> None:
    """Let a model and its optimizer go on from this state."""
    model.load_state_dict(state["model"])
    names, kept = _names(model), state["optimizer"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    by_place = {
        place: kept[name] for place, parameter in enumerate(parameters) for name in names[parameter] if name in kept
    }
    optimizer.load_state_dict({"state": by_place, "param_groups": optimizer.state_dict()["param_groups"]})


def _averaged(metadata: Metadata) -> set[str]:
    """The weights that a checkpoint holds the moving average of."""
    return {path[1] for path in metadata.planner_data.values() if path[0] == "optimizer" and path[2] == AVERAGE}


def _names(model: nn.Module) -> dict[Tensor, list[str]]:
    """The names of each parameter: several of a tied one, which a pipeline may hold in several places."""
    names: dict[Tensor, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[parameter].append(name)
    return dict(names)


def _room_for(stored: STORAGE_TYPES, parameter: Tensor, name: str) -> Tensor:
    if not isinstance(stored, TensorStorageMetadata):
        raise ValueError(f"optimizer state {name} is no tensor")
    if not stored.size:  # such as Adam's count of steps; `load_state_dict` takes it to where the optimizer wants it
        return torch.zeros((), dtype=stored.properties.dtype)
    if stored.size != parameter.shape:
        raise ValueError(f"optimizer state {name} is {list(stored.size)}, its weight {list(parameter.shape)}")
    return torch.zeros_like(parameter, dtype=stored.properties.dtype, requires_grad=False)
