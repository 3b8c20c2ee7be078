from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from jobs.int8 import Int8Linear, quantised
from jobs.stored_weights import Form, linear_layers, load, matrices, save
from jobs.workloads.transformer import TransformerSpec, transformer


class Mixed(nn.Module):
    """A layer of every kind, a buffer, and a matrix that two share."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Embedding(9, 8), nn.LayerNorm(8)
        self.inner, self.plain = nn.Linear(8, 6), nn.Linear(6, 8, bias=False)
        self.convolution = nn.Conv2d(2, 3, 3)
        self.head = nn.Linear(8, 9, bias=False)
        self.head.weight = self.tokens.weight
        self.register_buffer("steps", torch.tensor([3, 4]))


def mixed(seed: int) -> Mixed:
    torch.manual_seed(seed)
    return Mixed()


def through_file(model: Mixed, form: Form, path: Path) -> Mixed:
    save(model, path, form)
    other = mixed(1)
    other.steps = torch.zeros(2, dtype=torch.int64)
    load(other, path)
    return other


def rounded(weight: torch.Tensor) -> torch.Tensor:
    numbers, scale = quantised(weight.detach(), tuple(range(1, weight.ndim)))
    return numbers * scale


def test_which_layers_and_matrices_there_are() -> None:
    assert [name for name, _ in linear_layers(mixed(0))] == ["inner", "plain"]
    assert set(matrices(mixed(0))) == {"tokens.weight", "inner.weight", "plain.weight", "convolution.weight"}


def test_whole_weights_come_back_as_they_were(tmp_path: Path) -> None:
    model = mixed(0)
    back = through_file(model, "whole", tmp_path / "weights")
    assert back.head.weight is back.tokens.weight
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


def test_zeros_are_left_out_and_come_back(tmp_path: Path) -> None:
    model = mixed(0)
    with torch.no_grad():
        for weight in matrices(model).values():
            weight.mul_(torch.rand_like(weight) < 0.3)
    back = through_file(model, "sparse", tmp_path / "weights")
    assert back.head.weight is back.tokens.weight
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
    with safe_open(str(tmp_path / "weights"), "pt") as file:
        values = file.get_tensor("inner.weight.values")
        assert len(values) == int((model.inner.weight != 0).sum()) < 30
        assert len(file.get_tensor("inner.weight.places")) == 48 / 8


def test_int8_weights_come_back_rounded_in_float(tmp_path: Path) -> None:
    model = mixed(0)
    back = through_file(model, "int8_weights", tmp_path / "weights")
    assert isinstance(back.inner, nn.Linear)
    assert back.head.weight is back.tokens.weight
    for name, tensor in model.state_dict().items():
        wanted = rounded(tensor) if tensor.ndim > 1 else tensor
        torch.testing.assert_close(back.state_dict()[name], wanted, rtol=0, atol=0)


def test_int8_layers_compute_in_int8_and_the_others_stay(tmp_path: Path) -> None:
    model = mixed(0)
    back = through_file(model, "int8", tmp_path / "weights")
    assert isinstance(back.inner, Int8Linear)
    assert isinstance(back.plain, Int8Linear)
    assert back.plain.bias is None
    assert isinstance(back.head, nn.Linear)
    assert torch.equal(back.inner.weight * back.inner.scale, rounded(model.inner.weight))
    assert torch.equal(back.inner.bias, model.inner.bias)
    for name in ("tokens.weight", "norm.weight", "convolution.weight", "steps"):
        assert torch.equal(back.state_dict()[name], model.state_dict()[name])


@pytest.mark.parametrize(("form", "most"), [("int8", 0.32), ("int8_weights", 0.28)])
def test_a_transformer_takes_a_quarter_of_the_room(form: Form, most: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformer(TransformerSpec(num_layers=3, hidden_dim=128, feed_forward_dim=512))
    save(model, tmp_path / "whole")
    save(model, tmp_path / "smaller", form)
    assert (tmp_path / "smaller").stat().st_size < most * (tmp_path / "whole").stat().st_size
