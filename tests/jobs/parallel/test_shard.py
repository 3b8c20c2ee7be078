import json
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from cluster.layout import Layout
from jobs.parallel import shard
from jobs.parallel.mesh import open_mesh
from jobs.workloads.chain import Chain
from jobs.workloads.partition import Partition
from tests.jobs.parallel.workers import run_together

PARTITION = Partition(units=("layer*",))
NUM_WEIGHTS = 4 * (8 * 8 + 8)


def model() -> Chain:
    return Chain({f"layer{n}": nn.Linear(8, 8) for n in range(4)})


@pytest.mark.parametrize("layout", [Layout(shard=7), Layout(shard=2, replicate=2, context=2)])
def test_every_model_can_be_sharded(layout: Layout) -> None:
    shard.check(layout, PARTITION)


def test_without_shards_nothing_changes() -> None:
    parts: list[nn.Module] = [model()]
    assert shard.apply(parts, Layout(replicate=2), PARTITION, None) == parts
    assert not isinstance(parts[0], FSDPModule)


def count_on_workers(folder: Path, layout: Layout) -> None:
    parts = shard.apply([model()], layout, PARTITION, open_mesh(layout, "cpu"))
    weights = [cast(DTensor, weight) for weight in parts[0].parameters()]
    units = [isinstance(unit, FSDPModule) for unit in cast(Chain, parts[0]).values()]
    assert units == [True] * 4
    held = sum(weight.to_local().numel() for weight in weights)
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps([held, sum(weight.numel() for weight in weights)]))


@pytest.mark.parametrize(
    ("layout", "share"),
    [
        (Layout(shard=4), 4),
        (Layout(replicate=2, shard=2), 2),
        (Layout(context=2), 2),
        (Layout(shard=2, context=2), 4),
    ],
)
def test_a_worker_holds_its_share_of_every_weight(layout: Layout, share: int, tmp_path: Path) -> None:
    run_together(layout.num_workers, partial(count_on_workers, layout=layout), tmp_path)
    for worker in range(layout.num_workers):
        assert json.loads((tmp_path / f"{worker}.json").read_text()) == [NUM_WEIGHTS / share, NUM_WEIGHTS]


def average_on_workers(folder: Path) -> None:
    layout = Layout(shard=2)
    torch.manual_seed(0)
    whole = nn.Linear(4, 2)
    rows = torch.arange(8.0).reshape(2, 4)
    whole(rows).sum().backward()
    torch.manual_seed(0)
    (part,) = shard.apply([nn.Linear(4, 2)], layout, Partition(units=("",)), open_mesh(layout, "cpu"))
    part(rows[dist.get_rank() :][:1]).sum().backward()
    assert whole.weight.grad is not None
    grad = cast(DTensor, part.get_parameter("weight").grad).full_tensor()
    torch.testing.assert_close(grad, whole.weight.grad / 2)
    (folder / str(dist.get_rank())).touch()


def test_gradients_are_the_mean_over_the_workers(tmp_path: Path) -> None:
    run_together(2, average_on_workers, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"0", "1"}
