"""Attention over stretches on two workers, beside attention over the whole."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from cluster.layout import Layout
from jobs.parallel import context
from jobs.parallel.collectives import rank
from jobs.parallel.context import GatheringAttention
from jobs.workloads.partition import Partition
from jobs.workloads.transformer import CausalAttention
from tests.jobs.parallel.workers import run_together


def compare_on_workers(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 8, 6, generator=generator, requires_grad=True)
    key, value = (torch.randn(2, 2, 8, 6, generator=generator, requires_grad=True) for _ in range(2))
    weight = torch.randn(2, 4, 8, 6, generator=generator)
    position = torch.arange(8).expand(2, 8)
    whole = CausalAttention()(query, key, value, position, position)
    (whole * weight).sum().backward()

    stretch = slice(4 * rank(), 4 * rank() + 4)
    mine = [whole.detach()[:, :, stretch].clone().requires_grad_() for whole in (query, key, value)]
    attend = GatheringAttention(CausalAttention(), dist.group.WORLD)
    found = attend(*mine, position[:, stretch], position[:, stretch])
    (found * weight[:, :, stretch]).sum().backward()
    torch.testing.assert_close(found, whole[:, :, stretch])
    for part, full in zip(mine, (query, key, value), strict=True):
        assert full.grad is not None
        torch.testing.assert_close(part.grad, full.grad[:, :, stretch])
    (folder / str(rank())).touch()


def test_outputs_and_gradients_of_a_stretch_are_those_of_the_whole(tmp_path: Path) -> None:
    run_together(2, compare_on_workers, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"0", "1"}


def test_without_peers_attention_stays_as_it_is() -> None:
    model = nn.ModuleDict({"attend": CausalAttention()})
    (same,) = context.apply([model], Layout(), Partition(attention="attend"), None)
    assert isinstance(same.get_submodule("attend"), CausalAttention)
