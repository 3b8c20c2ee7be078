import pytest
import torch
from torch import Tensor, nn

from jobs.workloads.chain import Batch, Chain


class First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is None
        output: Tensor = self.linear(batch["values"])
        return output


class Scaled(nn.Module):
    """Multiplies by `factor` and adds what the batch holds."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        return hidden * self.factor + batch["shift"]


@pytest.fixture
def chain() -> Chain:
    torch.manual_seed(0)
    return Chain({"first": First(), "twice": Scaled(2.0), "thrice": Scaled(3.0)})


@pytest.fixture
def batch() -> Batch:
    return {"values": torch.randn(5, 3), "shift": torch.randn(5, 1)}


def test_links_run_in_order_and_each_sees_the_batch(chain: Chain, batch: Batch) -> None:
    first = chain["first"].linear(batch["values"])  # type: ignore[operator]
    torch.testing.assert_close(chain(batch), (first * 2 + batch["shift"]) * 3 + batch["shift"])


@pytest.mark.parametrize("cut", [1, 2])
def test_two_stretches_one_after_the_other_are_the_whole(chain: Chain, batch: Batch, cut: int) -> None:
    links = list(chain.items())
    head, tail = Chain(dict(links[:cut])), Chain(dict(links[cut:]))
    assert torch.equal(tail(batch, head(batch)), chain(batch))


def test_a_stretch_keeps_the_names_of_its_weights(chain: Chain) -> None:
    stretch = Chain({"thrice": chain["thrice"]})
    assert set(stretch.state_dict()) == {"thrice.factor"} < set(chain.state_dict())


def test_gradients_flow_through_every_link(chain: Chain, batch: Batch) -> None:
    chain(batch).sum().backward()
    assert all(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in chain.parameters())
