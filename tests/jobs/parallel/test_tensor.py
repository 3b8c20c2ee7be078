"""A block of two matrices split over two workers, beside the whole of it."""

from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cluster.layout import Layout
from jobs.parallel import tensor
from jobs.parallel.collectives import rank
from jobs.parallel.mesh import open_mesh
from jobs.workloads.partition import Partition
from tests.jobs.parallel.workers import run_together

PARTITION = Partition(
    tensor={"embedding": "embedding", "norm": "norm", "block": "block", "block.up": "column", "block.down": "row",
            "head": "head"},
    sequence=("x",),
)  # fmt: skip
SHARES = {"block.up.weight": 2, "block.down.weight": 2, "head.weight": 2, "norm.weight": 1, "embedding.weight": 1}
"""Into how many pieces each weight is split."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down(torch.tanh(self.up(hidden)))
        return output


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.block, self.head = nn.Linear(4, 8), nn.RMSNorm(8), Block(), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embedding(x)
        output: Tensor = self.head(hidden + self.block(self.norm(hidden)))
        return output


def model() -> Model:
    torch.manual_seed(0)
    return Model()


def compare_on_workers(folder: Path, layout: Layout) -> None:
    x = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    whole = model()
    expected = whole(x)
    expected.square().sum().backward()
    (split,) = tensor.apply([model()], layout, PARTITION, open_mesh(layout, "cpu"))
    found = split(x)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    for name, weight in split.named_parameters():
        reference = whole.get_parameter(name)
        grad = weight.grad
        assert grad is not None
        assert reference.grad is not None
        torch.testing.assert_close(grad.full_tensor() if isinstance(grad, DTensor) else grad, reference.grad)
        if name in SHARES:
            local = cast(DTensor, weight).to_local() if isinstance(weight, DTensor) else weight
            assert local.numel() * SHARES[name] == reference.numel(), name
    (folder / str(rank())).touch()


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_outputs_and_gradients_are_those_of_the_whole(sequence_parallel: bool, tmp_path: Path) -> None:
    layout = Layout(tensor=2, sequence_parallel=sequence_parallel)
    run_together(2, partial(compare_on_workers, layout=layout), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"0", "1"}


def test_without_peers_nothing_changes() -> None:
    (same,) = tensor.apply([model()], Layout(), PARTITION, None)
    assert not any(isinstance(weight, DTensor) for weight in same.parameters())
