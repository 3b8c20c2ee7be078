"""Texts that go on from a state beside the model as it was trained."""

import pytest
import torch
from torch import Tensor

from jobs.workloads.chain import Chain
from jobs.workloads.recurrent import CELLS, Cell, recurrent
from jobs.workloads.recurrent_decoding import RecurrentDecoder
from jobs.workloads.transformer import TransformerSpec

SPEC = TransformerSpec(num_layers=2, hidden_dim=16, num_heads=2, num_kv_heads=1)
CAPACITY = 24


def model(cell: Cell) -> Chain:
    torch.manual_seed(0)
    built = recurrent(SPEC, cell)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that what is read matters for what follows
    return built.eval()


def text(length: int, seed: int) -> list[int]:
    return torch.randint(257, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def check(cell: Cell, given: Tensor, texts: list[list[int]]) -> None:
    wanted = torch.stack([model(cell)({"token": torch.tensor([each])})[0, -1] for each in texts])
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(wanted[0], wanted[-1], atol=1e-2) or len(texts) == 1


@pytest.mark.parametrize("cell", CELLS)
def test_texts_of_several_lengths_go_on_as_each_alone(cell: Cell) -> None:
    decoder = RecurrentDecoder(model(cell), 4, CAPACITY)
    texts = [text(1, 0), text(9, 1), text(5, 2)]
    check(cell, decoder.begin(texts), texts)
    for token in range(6):
        tokens = [token + place for place in range(3)]
        texts = [[*each, token] for each, token in zip(texts, tokens, strict=True)]
        check(cell, decoder.go_on(tokens), texts)


def test_a_text_may_join_and_leave_between_any_two_tokens() -> None:
    decoder = RecurrentDecoder(model("lstm"), 3, CAPACITY)
    one, two, three = text(12, 0), text(3, 1), text(2, 2)
    decoder.begin([one, two])
    check("lstm", decoder.go_on([7, 8]), [[*one, 7], [*two, 8]])
    check("lstm", decoder.begin([three]), [three])
    decoder.drop(0)
    assert decoder.num_texts == 2
    check("lstm", decoder.go_on([5, 6]), [[*three, 5], [*two, 8, 6]])  # the last one took the number of the first
    decoder.drop(1)
    check("lstm", decoder.go_on([1]), [[*three, 5, 1]])
    decoder.drop(0)
    check("lstm", decoder.begin([one]), [one])
    decoder.clear()
    check("lstm", decoder.begin([two]), [two])


def test_a_text_is_as_long_as_there_is_room_for() -> None:
    decoder = RecurrentDecoder(model("gru"), 1, 4)
    decoder.begin([text(3, 0)])
    decoder.go_on([1])
    with pytest.raises(RuntimeError, match="a text of 5 tokens is longer than the 4 there is room for"):
        decoder.go_on([2])
    with pytest.raises(RuntimeError, match="a text of 6 tokens"):
        RecurrentDecoder(model("gru"), 1, 4).begin([text(6, 0)])
