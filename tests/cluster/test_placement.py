from collections import Counter
from math import floor
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.layout import Layout
from cluster.placement import Demand, InfeasibleError, Node, OccupiedError, Placement, num_free, place, place_first

GPU = Demand({"CPU": 1.0, "GPU": 1.0})


def node(name: str, gpus: float, free: float | None = None, cpus: float = 64.0, **more: str) -> Node:
    """A node with so many GPUs, all of them free unless said otherwise."""
    return Node(
        name,
        {"CPU": cpus, "GPU": gpus},
        {"CPU": cpus, "GPU": gpus if free is None else free},
        **{"gpu_type": "", **more},
    )


def nodes(*gpus: int) -> list[Node]:
    return [node(chr(ord("a") + place), number) for place, number in enumerate(gpus)]


def per_node(placement: Placement) -> dict[str, int]:
    return dict(Counter(placement.nodes))


layouts = st.builds(
    Layout,
    replicate=st.integers(1, 3),
    shard=st.integers(1, 3),
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.integers(1, 3),
    context=st.integers(1, 2),
)
inventories = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 64), st.sampled_from(["", "r1", "r2"])),
    min_size=1,
    max_size=6,
).map(
    lambda found: [
        node(f"n{place}", max(total, free), free, cpus, domain=domain)
        for place, (total, free, cpus, domain) in enumerate(found)
    ]
)
demands = st.sampled_from(
    [GPU, Demand({"CPU": 2.0, "GPU": 1.0}), Demand({"CPU": 1.0, "GPU": 0.5}), Demand({"CPU": 1.0})]
)


@settings(max_examples=300, deadline=None)
@given(layouts, demands, inventories, st.integers())
def test_no_tensor_group_is_split_no_node_is_overbooked_and_room_is_found_where_there_is_any(
    layout: Layout, demand: Demand, inventory: list[Node], seed: int
) -> None:
    gang = {unit: amount * layout.tensor for unit, amount in demand.each.items()}
    rooms = sum(min(floor(each.free[unit] / needed) for unit, needed in gang.items()) for each in inventory)
    try:
        placement = place(layout, demand, inventory)
    except InfeasibleError:
        assert rooms * layout.tensor < layout.num_workers
        return
    assert len(placement.nodes) == layout.num_workers <= rooms * layout.tensor
    for first in range(0, layout.num_workers, layout.tensor):
        assert len(set(placement.nodes[first : first + layout.tensor])) == 1
    free = {each.name: each.free for each in inventory}
    for name, number in per_node(placement).items():
        assert all(number * amount <= free[name][unit] for unit, amount in demand.each.items())
    shuffled = Random(seed).sample(inventory, len(inventory))
    assert place(layout, demand, shuffled) == placement


@pytest.mark.parametrize("tensor", [2, 4])
def test_where_ranks_in_turn_would_split_a_group_none_is(tensor: int) -> None:
    """Three GPUs a node: filled in turn, ranks 2 and 3 stand on two nodes."""
    layout = Layout(tensor=tensor, replicate=8 // tensor)
    if tensor == 4:
        with pytest.raises(InfeasibleError, match="there is room for 0 of 2 such groups"):
            place(layout, GPU, nodes(3, 3, 3, 3))
        return
    assert place(layout, GPU, nodes(3, 3, 3, 3)).nodes == tuple("aabbccdd")


def test_the_largest_groups_that_fit_stay_whole() -> None:
    stages = place(Layout(pipeline=4, shard=2), GPU, nodes(3, 3, 3, 3))
    assert stages.nodes == tuple("aabbccdd")  # three on a node would part a stage's shards
    assert place(Layout(pipeline=2, shard=4), GPU, nodes(4, 4)).nodes == tuple("aaaabbbb")
    assert place(Layout(pipeline=2, shard=4), GPU, nodes(2, 8, 4)).nodes == tuple("bbbbbbbb")


def test_the_smallest_node_that_is_enough_is_taken_and_large_ones_are_left() -> None:
    assert per_node(place(Layout(replicate=2), GPU, nodes(8, 2, 4))) == {"b": 2}
    assert per_node(place(Layout(replicate=10), GPU, nodes(8, 2, 4))) == {"a": 8, "b": 2}


def test_neighbours_stay_in_a_domain_where_it_has_room() -> None:
    inventory = [node("a", 2, domain="x"), node("b", 4, domain="y"), node("c", 2, domain="x"), node("d", 2, domain="y")]
    assert set(place(Layout(replicate=6), GPU, inventory).nodes) == {"b", "d"}


def test_shares_of_a_gpu_add_up_on_one_node() -> None:
    half = Demand({"CPU": 1.0, "GPU": 0.5})
    assert per_node(place(Layout(replicate=4), half, nodes(1, 1))) == {"a": 2, "b": 2}
    assert per_node(place(Layout(tensor=2, replicate=2), half, nodes(2))) == {"a": 4}
    with pytest.raises(
        InfeasibleError, match=r"layout.tensor=3 workers of 0.5 GPUs share 1.5, which is no whole number"
    ):
        place(Layout(tensor=3), half, nodes(8))


def test_only_the_gpus_that_are_asked_for_are_taken() -> None:
    inventory = [node("a", 8, gpu_type="L4"), node("b", 2, gpu_type="H100")]
    wanted = Demand({"GPU": 1.0}, gpu_type="H100")
    assert place(Layout(replicate=2), wanted, inventory).nodes == ("b", "b")
    with pytest.raises(InfeasibleError, match="4 GPUs in all; 2 are there on 1 nodes"):
        place(Layout(replicate=4), wanted, inventory)
    with pytest.raises(InfeasibleError, match=r"on A100; the GPUs here are H100, L4\. Ask for one of these"):
        place(Layout(replicate=2), Demand({"GPU": 1.0}, gpu_type="A100"), inventory)


@pytest.mark.parametrize(
    ("layout", "inventory", "told"),
    [
        (Layout(replicate=8), nodes(3, 3), "needs 8 workers of 1 CPU and 1 GPU, 8 GPUs in all; 6 are there on 2 nodes"),
        (Layout(replicate=4), [node("a", 8, cpus=2.0)], "4 CPUs in all; 2 are there"),
        (
            Layout(tensor=4),
            nodes(3, 3),
            "with 4 CPUs and 4 GPUs; there is room for 0 of 1 such groups, the largest node",
        ),
        (Layout(replicate=2), [], "2 CPUs in all; 0 are there on 0 nodes"),
    ],
)
def test_what_is_scarce_is_named_with_the_way_out(layout: Layout, inventory: list[Node], told: str) -> None:
    with pytest.raises(InfeasibleError, match=told) as raised:
        place(layout, GPU, inventory)
    assert not isinstance(raised.value, OccupiedError)
    assert str(raised.value).endswith(("add nodes", "Lower layout.tensor"))


def test_what_others_hold_is_told_from_what_is_not_there() -> None:
    with pytest.raises(OccupiedError, match=r"4 GPUs in all; 1 are free now on 1 nodes\. Others hold the rest: wait"):
        place(Layout(replicate=4), GPU, [node("a", 4, free=1)])


def test_gangs_are_told_by_their_nodes() -> None:
    placement = place(Layout(tensor=2, replicate=2), GPU, nodes(2, 2))
    assert (placement.gang, placement.gang_nodes) == (2, ("a", "b"))


@settings(max_examples=200, deadline=None)
@given(st.lists(layouts, min_size=1, max_size=5), demands, inventories)
def test_the_first_layout_that_there_is_room_for_is_placed(
    wanted: list[Layout], demand: Demand, inventory: list[Node]
) -> None:
    def fits(layout: Layout) -> bool:
        try:
            place(layout, demand, inventory)
        except InfeasibleError:
            return False
        return True

    fitting = [layout for layout in wanted if fits(layout)]
    if fitting:
        assert place_first(wanted, demand, inventory) == (fitting[0], place(fitting[0], demand, inventory))
        return
    with pytest.raises(InfeasibleError) as last:
        place(wanted[-1], demand, inventory)
    with pytest.raises(last.type) as found:
        place_first(wanted, demand, inventory)
    assert str(found.value) == str(last.value)


def test_room_is_counted_by_worker_on_nodes_that_will_do() -> None:
    there = [node("a", 3), node("b", 2, cpus=1), node("c", 4, gpu_type="H100")]
    assert num_free(GPU, there) == 8
    assert num_free(Demand({"GPU": 0.5}, "H100"), there) == 8
