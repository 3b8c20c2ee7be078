import pytest
import torch
from torch import nn

from jobs.int8 import Int8Linear, quantised


def int8_of(layer: nn.Linear) -> Int8Linear:
    return Int8Linear(*quantised(layer.weight.detach(), (1,)), layer.bias)


def test_values_come_back_within_half_a_scale_and_the_largest_exactly() -> None:
    values = torch.randn(50, 70) * torch.logspace(-3, 3, 50)[:, None]
    numbers, scale = quantised(values, (1,))
    assert numbers.dtype == torch.int8
    assert scale.shape == (50, 1)
    assert ((numbers * scale - values).abs() <= scale / 2 * (1 + 1e-5)).all()
    assert numbers.abs().amax(1).tolist() == [127] * 50


def test_zeros_stay_zeros() -> None:
    numbers, scale = quantised(torch.zeros(2, 3), (1,))
    assert (numbers * scale).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("shape", [(1, 40), (3, 40), (4, 5, 40), (40,)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_outputs_are_those_of_numbers_rounded_so(shape: tuple[int, ...], bias: bool) -> None:
    """Against the same roundings in float64."""
    torch.manual_seed(0)
    layer, inputs = nn.Linear(40, 24, bias=bias), torch.randn(*shape)
    weight, weight_scale = quantised(layer.weight.detach(), (1,))
    numbers, scale = quantised(inputs.reshape(-1, 40), (1,))
    wanted = (numbers.double() * scale) @ (weight.double() * weight_scale).T
    wanted = (wanted + (layer.bias.detach() if bias else 0)).reshape(*shape[:-1], 24)
    given = int8_of(layer)(inputs)
    torch.testing.assert_close(given.double(), wanted, rtol=1e-4, atol=1e-5)
    exact = layer(inputs).detach()
    assert float((given - exact).norm() / exact.norm()) < 0.02


def test_a_row_has_the_same_outputs_whatever_it_comes_with() -> None:
    torch.manual_seed(0)
    layer, inputs = int8_of(nn.Linear(64, 32)), torch.randn(33, 64) * torch.logspace(-2, 2, 33)[:, None]
    together = layer(inputs)
    assert torch.equal(together, torch.cat([layer(row[None]) for row in inputs]))
