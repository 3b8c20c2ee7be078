import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from cluster.layout import AXES, Layout
from jobs.parallel.mesh import data_mesh, end_groups, num_averaged, open_mesh, sharding_axis
from tests.jobs.parallel.workers import TIMEOUT_S, run_together

LAYOUTS = [
    Layout(tensor=3),
    Layout(replicate=2, shard=2),
    Layout(shard=2, tensor=2, pipeline=2),
    Layout(replicate=2, shard=2, context=3),
    Layout(pipeline=2, replicate=2, shard=2, context=2, tensor=2),
]
on_any_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=Layout.line)


@contextmanager
def as_worker(rank: int, layout: Layout) -> Iterator[None]:
    """A process group of which there is only this worker: it can say who its peers are, but not talk to them."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.num_workers)
    try:
        yield
    finally:
        dist.destroy_process_group()


def peers(layout: Layout, rank: int, *axes: str) -> list[int]:
    """The ranks that stand where this one does on all other axes, by the layout alone."""
    place = vars(layout.coordinate(rank))
    others = [axis for axis in AXES if axis not in axes]
    ranks = range(layout.num_workers)
    return [other for other in ranks if all(vars(layout.coordinate(other))[axis] == place[axis] for axis in others)]


def test_one_worker_has_no_mesh_and_needs_no_process_group() -> None:
    assert open_mesh(Layout(accumulation=4, recompute=True), "cpu") is None


@on_any_layout
def test_a_rank_stands_in_the_mesh_where_the_layout_says(layout: Layout) -> None:
    for rank in range(layout.num_workers):
        with as_worker(rank, layout):
            mesh = open_mesh(layout, "cpu")
            assert mesh is not None
            assert mesh.mesh_dim_names == tuple(axis for axis, size in zip(AXES, layout.sizes, strict=True) if size > 1)
            for axis in mesh.mesh_dim_names:
                assert mesh[axis].get_local_rank() == vars(layout.coordinate(rank))[axis]
                assert dist.get_process_group_ranks(mesh[axis].get_group()) == peers(layout, rank, axis)


@pytest.mark.parametrize(
    ("layout", "axis"),
    [
        (Layout(replicate=2, tensor=2, pipeline=2), None),
        (Layout(shard=2), "shard"),
        (Layout(context=2, replicate=2), "context"),
        (Layout(shard=2, context=2), "shard_context"),
    ],
)
def test_weights_are_sharded_where_data_is_split_within_a_copy(layout: Layout, axis: str | None) -> None:
    assert sharding_axis(layout) == axis


@on_any_layout
def test_weights_are_sharded_over_all_peers_that_see_other_rows_or_positions(layout: Layout) -> None:
    for rank in range(layout.num_workers):
        with as_worker(rank, layout):
            mesh = open_mesh(layout, "cpu")
            assert mesh is not None
            over = data_mesh(layout, mesh)
            if layout.shard == layout.context == 1:
                assert over is None
                continue
            assert over is not None
            assert over.ndim == (2 if layout.replicate > 1 else 1)
            inner = dist.get_process_group_ranks(over.get_group(over.ndim - 1))
            assert inner == peers(layout, rank, "shard", "context")
            if over.ndim == 2:
                assert dist.get_process_group_ranks(over.get_group(0)) == peers(layout, rank, "replicate")


@on_any_layout
def test_gradients_are_averaged_over_as_many_workers_as_see_other_rows_or_positions(layout: Layout) -> None:
    assert num_averaged(layout) == len(peers(layout, 0, "replicate", "shard", "context"))


def wait_in_vain(folder: Path) -> None:
    """The first worker waits between shards for one that does not come before it is done; all wait two seconds."""
    world: Any = dist.group.WORLD
    world._get_backend(torch.device("cpu")).options._timeout = timedelta(seconds=2)
    mesh = open_mesh(Layout(shard=2, tensor=2), "cpu")
    assert mesh is not None
    waited, ends = folder / "waited", time.monotonic() + TIMEOUT_S
    if dist.get_rank() == 0:
        with pytest.raises(RuntimeError, match=r"[Tt]imed out"):
            dist.all_reduce(torch.ones(1), group=mesh["shard"].get_group())
        waited.touch()
    while not waited.exists() and time.monotonic() < ends:
        time.sleep(0.1)


def test_peers_wait_for_each_other_as_long_as_all_workers_do(tmp_path: Path) -> None:
    run_together(4, wait_in_vain, tmp_path)
    assert (tmp_path / "waited").exists()


def open_twice(folder: Path) -> None:
    """The groups of one mesh end before the next one is opened, which works as the first did."""
    made: Any = dist.distributed_c10d._world.pg_map
    for _ in range(2):
        mesh = open_mesh(Layout(shard=2, tensor=2), "cpu")
        assert mesh is not None
        ones = torch.ones(1)
        dist.all_reduce(ones, group=mesh["tensor"].get_group())
        assert ones.item() == 2
        assert len(made) == 3
        end_groups()
        assert [*made] == [dist.group.WORLD]
    dist.all_reduce(torch.ones(1))
    (folder / f"done {dist.get_rank()}").touch()


def test_the_groups_of_a_mesh_can_be_ended_but_that_of_all_workers(tmp_path: Path) -> None:
    end_groups()  # where there is none
    run_together(4, open_twice, tmp_path)
    assert len([*tmp_path.glob("done *")]) == 4
