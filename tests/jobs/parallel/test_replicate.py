from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.parallel.replicate import (
    from_first,
    mean_over_batch,
    num_replicas,
    rank,
    replicate,
    sum_over_replicas,
)
from jobs.parallel.sample_order import replica_rows
from tests.jobs.parallel.workers import run_together

NUM_FEATURES = 6
BATCHES = (1, 2, 5, 8)
"""Rows of the global batches; over two replicas one row leaves the second replica none."""


class Model(nn.Module):
    """An embedding, a hidden layer and a number a row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kinds = nn.Embedding(3, NUM_FEATURES)
        self.layers = nn.Sequential(nn.Linear(NUM_FEATURES, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, features: Tensor, kinds: Tensor) -> Tensor:
        scores: Tensor = self.layers(features + self.kinds(kinds)).squeeze(-1)
        return scores


def rows(batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(batch_size)
    features = torch.randn(batch_size, NUM_FEATURES, generator=draw)
    kinds = torch.randint(3, (batch_size,), generator=draw)
    return features, kinds, torch.randn(batch_size, generator=draw)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def gradients_of_the_mean(batch_size: int) -> dict[str, Tensor]:
    """What PyTorch computes in one process, from the mean over the whole batch."""
    model = Model()
    features, kinds, wanted = rows(batch_size)
    F.mse_loss(model(features, kinds), wanted).backward()
    return gradients(model)


def replicated_gradients(batch_size: int) -> dict[str, Tensor]:
    """What this worker's replica ends up with after its part of the batch."""
    model = Model()
    replicated = replicate(model)
    mine = torch.arange(batch_size)[replica_rows(torch.arange(batch_size).numpy(), rank(), num_replicas())]
    features, kinds, wanted = (values[mine] for values in rows(batch_size))
    summed = F.mse_loss(replicated(features, kinds), wanted, reduction="sum")
    mean_over_batch(summed, batch_size).backward()
    return gradients(model)


def report_from_a_worker(folder: Path) -> None:
    said = {
        "rank": rank(),
        "num_replicas": num_replicas(),
        "gradients": {batch_size: replicated_gradients(batch_size) for batch_size in BATCHES},
        "sum": sum_over_replicas(torch.tensor([1.0, 10.0]) * (rank() + 1)),
        "from_first": from_first({"rank": rank(), "path": f"step-{rank()}"}),
    }
    mine = torch.ones(1, requires_grad=True)
    sum_over_replicas(mine)
    torch.save({**said, "untouched": mine.detach()}, folder / f"{rank()}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What two workers that train together say, in the order of their ranks."""
    folder = tmp_path_factory.mktemp("two")
    run_together(2, report_from_a_worker, folder)
    return [torch.load(folder / f"{index}.pt") for index in range(2)]


@pytest.mark.parametrize("batch_size", BATCHES)
def test_two_replicas_have_the_gradient_of_the_mean_however_the_rows_are_dealt(
    two: list[dict[str, dict[int, dict[str, Tensor]]]], batch_size: int
) -> None:
    expected = gradients_of_the_mean(batch_size)
    for worker in two:
        torch.testing.assert_close(worker["gradients"][batch_size], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", BATCHES)
def test_one_process_has_the_gradient_of_the_mean(batch_size: int) -> None:
    expected = gradients_of_the_mean(batch_size)
    torch.testing.assert_close(replicated_gradients(batch_size), expected, rtol=0, atol=1e-6)


def test_workers_know_their_place(two: list[dict[str, object]]) -> None:
    assert [(worker["rank"], worker["num_replicas"]) for worker in two] == [(0, 2), (1, 2)]


def test_a_sum_over_replicas_is_the_same_on_each(two: list[dict[str, Tensor]]) -> None:
    for worker in two:
        assert worker["sum"].tolist() == [3.0, 30.0]


def test_a_sum_over_replicas_leaves_the_workers_own_value(two: list[dict[str, Tensor]]) -> None:
    for worker in two:
        assert worker["untouched"].tolist() == [1.0]


def test_every_worker_gets_the_value_of_the_first(two: list[dict[str, object]]) -> None:
    for worker in two:
        assert worker["from_first"] == {"rank": 0, "path": "step-0"}


def test_one_process_needs_no_group() -> None:
    model, value = nn.Linear(1, 1), torch.tensor([2.0])
    assert (rank(), num_replicas()) == (0, 1)
    assert replicate(model) is model
    assert from_first("mine") == "mine"
    assert sum_over_replicas(value).tolist() == [2.0]
