"""Linear layers that compute in whole numbers of 8 bits: a quarter of the memory, and faster where CPUs count so.

Weights are scaled by output feature and fixed; inputs are scaled by row while they come (dynamic quantisation; Jacob et
al., 2018, for the arithmetic; Yao et al., 2022, ZeroQuant, for the scale of each row). As each row has a scale of its
own, an answer does not depend on what it is answered together with.
"""

from torch import Tensor, nn
from torch import _int_mm as int8_matmul
from torch import int8 as INT8

LARGEST = 127
"""-128 is left out, so that the range is the same on both sides of 0."""


def quantised(values: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Values as int8, and the scale that gives them back: values = int8 x scale, off by half a scale at most.

    Args:
        dims: what shares one scale.

    Returns:
        The numbers, of the values' shape, and the scales, of size 1 in `dims`.
    """
    largest = values.abs().amax(dims, keepdim=True)
    scale = largest.where(largest > 0, 1.0) / LARGEST
    return (values / scale).round().to(INT8), scale


class Int8Linear(nn.Module):
    """A linear layer of int8 weights."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        """Args:
        weight: [outputs, inputs], int8.
        scale: [outputs, 1], float32.
        bias: [outputs], float32.
        """
        super().__init__()
        self.weight, self.scale = nn.Parameter(weight, requires_grad=False), nn.Parameter(scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], float32."""
        numbers, scale = quantised(inputs.reshape(-1, inputs.shape[-1]).float(), (1,))
        outputs: Tensor = int8_matmul(numbers, self.weight.T).float() * scale * self.scale.T
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.view(*inputs.shape[:-1], -1)
