"""How a model's weights lie in a version: whole, or smaller in one of a few ways; always safetensors.

whole         every tensor as it is
int8          weights of linear layers as int8 with a scale for each output; they are computed with as such
int8_weights  weights of two dims and more as int8 with a scale for each row of them; computed with in float32
sparse        weights of two dims and more without their zeros: the others, and a bit for each place
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn

from jobs.int8 import Int8Linear, quantised

Form = Literal["whole", "int8", "int8_weights", "sparse"]
FORM = "form"
"""Of the file's metadata; absent where the weights are whole."""
SCALE, VALUES, PLACES = ".scale", ".values", ".places"
"""What a weight's name has behind it where it is kept as several tensors."""


def save(model: nn.Module, path: Path, form: Form = "whole") -> None:
    """Write the weights."""
    if form == "whole":
        save_model(model, str(path))  # writes a matrix that two layers share once
        return
    chosen = {f"{name}.weight" for name, _ in linear_layers(model)} if form == "int8" else set(matrices(model))
    kept: dict[str, Tensor] = {}
    for name, tensor in _own(model):
        kept |= _parts(name, tensor.detach(), form) if name in chosen else {name: tensor.detach()}
    save_file({name: tensor.contiguous() for name, tensor in kept.items()}, str(path), {FORM: form})


def load(model: nn.Module, path: Path) -> None:
    """Read the weights into a model that was built for them; of `int8` its linear layers become `Int8Linear`."""
    with safe_open(str(path), "pt") as file:
        form = (file.metadata() or {}).get(FORM, "whole")
        if form == "whole":
            load_model(model, str(path))
            return
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    own = dict(_own(model))
    if form == "int8":
        for name, layer in linear_layers(model):
            weight = f"{name}.weight"
            del own[weight]
            model.set_submodule(name, Int8Linear(kept[weight], kept[weight + SCALE], layer.bias))
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(_joined(name, tensor, kept))


def linear_layers(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear layers whose weights are theirs alone, by name."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    uses = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    return [(name, layer) for name, layer in layers if uses.count(id(layer.weight)) == 1]


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of two dims and more, by name; one that two layers share once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}


def _own(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor once."""
    yield from model.named_parameters()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in model.state_dict())


def _parts(name: str, tensor: Tensor, form: Form) -> dict[str, Tensor]:
    """What a tensor is kept as."""
    if form == "sparse":
        is_there = tensor != 0
        places = torch.from_numpy(np.packbits(is_there.flatten().numpy()))
        return {name + VALUES: tensor[is_there], name + PLACES: places}
    numbers, scale = quantised(tensor, tuple(range(1, tensor.ndim)))
    return {name: numbers, name + SCALE: scale}


def _joined(name: str, like: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
    """A tensor as it was kept, in the shape of `like`."""
    if name + PLACES in kept:
        is_there = torch.from_numpy(np.unpackbits(kept[name + PLACES].numpy(), count=like.numel()).astype(bool))
        return torch.zeros_like(like).masked_scatter(is_there.view(like.shape), kept[name + VALUES])
    return kept[name] * kept[name + SCALE] if name + SCALE in kept else kept[name]
