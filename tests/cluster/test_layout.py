from itertools import product
from random import Random

import pytest
from pydantic import ValidationError

from cluster.errors import SpecError
from cluster.layout import AXES, Coordinate, Layout

LAYOUTS = [Layout(**{axis: random.choice((1, 1, 2, 3, 4)) for axis in AXES}) for random in map(Random, range(30))]
"""Of 1 to a few hundred workers."""


@pytest.mark.parametrize("layout", LAYOUTS, ids=Layout.line)
def test_ranks_and_coordinates_are_one_to_one(layout: Layout) -> None:
    found = [layout.coordinate(rank) for rank in range(layout.num_workers)]
    assert found == [Coordinate(*places) for places in product(*map(range, layout.sizes))]


def test_the_axes_of_a_coordinate_are_those_of_the_layout_in_order() -> None:
    assert tuple(vars(Layout().coordinate(0))) == AXES


def test_neighbours_are_peers_of_a_tensor_group_and_pipeline_stages_lie_farthest_apart() -> None:
    layout = Layout(pipeline=2, replicate=3, tensor=4)
    places = [layout.coordinate(rank) for rank in range(24)]
    assert [place.tensor for place in places] == [0, 1, 2, 3] * 6
    assert [place.pipeline for place in places] == [0] * 12 + [1] * 12


@pytest.mark.parametrize("layout", LAYOUTS, ids=Layout.line)
def test_a_rank_takes_the_rows_of_its_place_on_the_axes_that_split_rows_whatever_the_others(layout: Layout) -> None:
    rows_of: dict[tuple[int, int], set[int]] = {}
    for rank in range(layout.num_workers):
        place = layout.coordinate(rank)
        rows_of.setdefault((place.replicate, place.shard), set()).add(layout.replica(rank))
    assert all(len(replicas) == 1 for replicas in rows_of.values())
    assert sorted(replica for (replica,) in rows_of.values()) == list(range(layout.num_replicas))
    assert len(rows_of) == layout.num_replicas == layout.replicate * layout.shard


def test_a_layout_needs_the_product_of_its_axes_in_workers() -> None:
    assert Layout(replicate=2, shard=3, tensor=5, pipeline=7, context=11).num_workers == 2 * 3 * 5 * 7 * 11
    assert Layout(micro_batches=4, accumulation=8, recompute=True).num_workers == 1


def test_one_worker_computes_the_same_at_the_same_precision() -> None:
    layout = Layout(replicate=4, shard=2, tensor=2, pipeline=2, micro_batches=8, accumulation=2, precision="bf16")
    assert layout.alone() == Layout(precision="bf16")
    assert layout.alone().num_workers == 1


def test_a_layout_is_told_by_what_differs_from_the_default() -> None:
    assert Layout().line() == "one worker"
    assert Layout(tensor=2).line() == "tensor=2"
    layout = Layout(pipeline=2, micro_batches=4, schedule="zbv", sequence_parallel=True)
    assert layout.line() == "pipeline=2 sequence_parallel=true schedule=zbv micro_batches=4"


def test_a_batch_that_divides_passes() -> None:
    Layout().check_batch(7)
    Layout(replicate=4).check_batch(256)
    Layout(shard=2, pipeline=2, micro_batches=4, accumulation=3).check_batch(48)
    Layout(tensor=3, context=5, pipeline=7).check_batch(1)


@pytest.mark.parametrize(
    ("layout", "batch", "over", "way_out"),
    [
        (Layout(replicate=3), 256, "layout.replicate=3", 255),
        (Layout(replicate=4), 2, "layout.replicate=4", 4),
        (Layout(shard=5, tensor=2), 64, "layout.shard=5", 60),
        (Layout(accumulation=3), 64, "layout.accumulation=3", 63),
        (Layout(pipeline=2, micro_batches=6), 64, "layout.micro_batches=6", 60),
        (
            Layout(replicate=2, shard=3, accumulation=2, pipeline=2, micro_batches=4),
            100,
            "layout.replicate=2 x layout.shard=3 x layout.accumulation=2 x layout.micro_batches=4 = 48",
            96,
        ),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(
    layout: Layout, batch: int, over: str, way_out: int
) -> None:
    with pytest.raises(SpecError) as caught:
        layout.check_batch(batch)
    assert str(caught.value).startswith(f"train.batch_size={batch} rows do not divide over {over}; ")
    assert f"give train.batch_size={way_out} or another layout." in str(caught.value)
    layout.check_batch(way_out)


@pytest.mark.parametrize("axis", [*AXES, "micro_batches", "accumulation"])
def test_nothing_is_split_in_no_parts(axis: str) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Layout(**{axis: 0})


@pytest.mark.parametrize(("key", "value"), [("schedule", "2f2b"), ("precision", "fp8"), ("expert", 2)])
def test_what_no_layout_has_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        Layout(**{key: value})
