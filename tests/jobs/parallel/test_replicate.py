from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cluster.layout import Layout
from jobs.parallel import replicate
from jobs.parallel.mesh import open_mesh
from jobs.workloads.chain import Chain
from jobs.workloads.partition import Partition
from tests.jobs.parallel.workers import run_together

PARTITION = Partition(units=("layer*",))


def model() -> Chain:
    return Chain({f"layer{n}": nn.Linear(4, 4) for n in range(3)})


@pytest.mark.parametrize("layout", [Layout(), Layout(replicate=2), Layout(replicate=8, tensor=2, pipeline=2)])
def test_every_model_can_be_replicated(layout: Layout) -> None:
    replicate.check(layout, PARTITION)


def test_one_worker_keeps_its_parts_as_they_are() -> None:
    parts: list[nn.Module] = [model()]
    assert replicate.apply(parts, Layout(), PARTITION, None) == parts


def apply_on_workers(folder: Path, layout: Layout) -> None:
    parts: list[nn.Module] = [model()]
    names = [name for name, _ in parts[0].named_parameters()]
    (made,) = replicate.apply(parts, layout, PARTITION, open_mesh(layout, "cpu"))
    assert [name for name, _ in parts[0].named_parameters()] == names, "weights stay where they are named"
    (folder / str(dist.get_rank())).write_text(
        "ddp" if isinstance(made, DistributedDataParallel) else type(made).__name__
    )


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (Layout(replicate=2), "ddp"),
        (Layout(replicate=2, tensor=2), "ReplicateChain"),
        (Layout(replicate=2, shard=2), "Chain"),
    ],
)
def test_ddp_is_for_replicas_alone_and_shard_does_its_own(layout: Layout, expected: str, tmp_path: Path) -> None:
    run_together(layout.num_workers, partial(apply_on_workers, layout=layout), tmp_path)
    assert {(tmp_path / str(worker)).read_text() for worker in range(layout.num_workers)} == {expected}
