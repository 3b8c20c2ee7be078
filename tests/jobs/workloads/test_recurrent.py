"""Recurrent networks beside torch's own with all layers in one."""

import pytest
import torch

from jobs.workloads.recurrent import CELLS, Cell, RecurrentLayer, recurrent
from jobs.workloads.transformer import TransformerSpec

SPEC = TransformerSpec(num_layers=2, hidden_dim=16, num_heads=2, num_kv_heads=1, vocabulary_size=288)


@pytest.mark.parametrize("cell", CELLS)
def test_layers_are_those_of_torch_in_one(cell: Cell) -> None:
    torch.manual_seed(0)
    model = recurrent(SPEC, cell)
    whole = CELLS[cell](16, 16, num_layers=2, batch_first=True)
    names = [name.removesuffix("_l0") for name, _ in model["layer0"].cell.named_parameters()]  # type: ignore[union-attr]
    given = dict(model.named_parameters())
    whole.load_state_dict({f"{name}_l{n}": given[f"layer{n}.cell.{name}_l0"] for name in names for n in (0, 1)})
    token = torch.randint(257, (3, 9))
    batch = {"token": token, "position": torch.arange(9).expand(3, -1)}
    hidden = model["embedding"](None, batch)
    for name in ("layer0", "layer1"):
        hidden = model[name](hidden, batch)
    torch.testing.assert_close(hidden, whole(model["embedding"](None, batch))[0])
    torch.testing.assert_close(model["head"](hidden, batch), model(batch))


def test_a_forget_gate_begins_open() -> None:
    layer = RecurrentLayer(4, "lstm")
    bias = dict(layer.cell.named_parameters())["bias_ih_l0"]  # input, forget, cell and output gate, by torch's manual
    assert bias[4:8].tolist() == [1.0] * 4
    assert not (bias[:4] == 1).any()


def test_a_tied_matrix_is_one() -> None:
    model = recurrent(SPEC.model_copy(update={"tie_embeddings": True}), "gru")
    assert dict(model.named_parameters(remove_duplicate=False))["head.output.weight"] is model["embedding"].token.weight  # type: ignore[union-attr]


@pytest.mark.parametrize("cell", CELLS)
def test_reading_in_pieces_of_any_length_comes_to_the_same(cell: Cell) -> None:
    torch.manual_seed(0)
    layer, hidden = RecurrentLayer(8, cell), torch.randn(2, 7, 8)
    whole = layer(hidden, {})
    first, state = layer.read(hidden[:, :4], [4, 2], None)
    second, _ = layer.read(torch.stack([hidden[0, 4:7], hidden[1, 2:5]]), [3, 3], state)
    torch.testing.assert_close(first[0], whole[0, :4])
    torch.testing.assert_close(first[1, :2], whole[1, :2])
    torch.testing.assert_close(second, torch.stack([whole[0, 4:7], whole[1, 2:5]]))


def test_outputs_and_gradients_lie_as_a_pipeline_sends_them() -> None:
    hidden = torch.randn(3, 5, 8, requires_grad=True)
    output = RecurrentLayer(8, "lstm")(hidden, {})
    (gradient,) = torch.autograd.grad(output.square().sum(), hidden)
    assert output.is_contiguous()
    assert gradient.is_contiguous()
