"""Where a model's weights lie, which is where it computes."""

import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's weights, which all lie on one; the CPU for a model that has none."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
