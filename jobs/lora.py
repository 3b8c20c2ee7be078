"""LoRA: a linear layer stays as it is and learns a change of low rank beside it (Hu et al., 2021).

y = W x + alpha / rank * B A x, with A at random and B at 0, so that training begins with what was there. Merged, it is
a plain linear layer again.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.spec import LoraSpec
from jobs.stored_weights import linear_layers
from jobs.weight_names import matching


class LoraLinear(nn.Module):
    """Takes over the weight and the bias of a layer, under their names, and adds `lora_a` and `lora_b`."""

    def __init__(self, layer: nn.Linear, spec: LoraSpec) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = spec.alpha / spec.rank
        self.lora_a = nn.Parameter(layer.weight.new_empty(spec.rank, layer.in_features))
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, spec.rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as the paper's code has it

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        change = F.linear(F.linear(inputs, self.lora_a), self.lora_b)
        return F.linear(inputs, self.weight, self.bias) + self.scale * change

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer that computes the same."""
        num_outputs, num_inputs = self.weight.shape
        layer = nn.Linear(num_inputs, num_outputs, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight + self.scale * self.lora_b @ self.lora_a)
        layer.bias = self.bias
        return layer


def attach(model: nn.Module, spec: LoraSpec) -> None:
    """Let the target layers learn a change, and freeze everything else.

    A layer that shares its weight with another is none: merged, it would change that one too.

    Raises:
        SpecError: a pattern of targets matches no linear layer.
    """
    layers = dict(linear_layers(model))
    model.requires_grad_(False)
    targets = matching(spec.targets, layers, "train.lora.targets")
    for name, layer in layers.items():
        if name in targets:
            model.set_submodule(name, LoraLinear(layer, spec))


def merge(model: nn.Module) -> None:
    """Make plain layers of those that learned a change."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLinear):
            model.set_submodule(name, module.merged())
