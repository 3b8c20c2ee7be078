from typing import Any

import pytest

from cluster.layout import Layout
from jobs.search.device import Device, Link, Overheads
from jobs.search.pipeline_order import orders
from jobs.search.timing import StepTime, _Duration, _span, _span_apart, time_of
from tests.jobs.parallel.training import BATCH_SIZE
from tests.jobs.search.models import model_of

FREE = Link(latency_us=0, gb_per_s=1e9)
ALONE = Device(
    memory_gib=1, tflops={"fp32": 0.1}, memory_gb_per_s=50, inside=FREE, between=FREE, source="no message costs a thing"
)


def foreseen(layout: dict[str, Any], device: Device = ALONE) -> StepTime:
    given = Layout(**layout)
    rows = BATCH_SIZE // (given.num_replicas * given.accumulation * given.micro_batches)
    return time_of(given, model_of("wide").stretches(given, rows), device)


def measured_links(latency_us: float) -> Device:
    link = Link(latency_us=latency_us, gb_per_s=1e9)
    return ALONE.model_copy(update={"inside": link, "overlaps": False})


@pytest.mark.parametrize(("pipeline", "micro_batches"), [(2, 4), (4, 8), (4, 4)])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_a_pipeline_is_filled_and_emptied_once(pipeline: int, micro_batches: int, schedule: Any) -> None:
    """Narayanan et al., 2021, section 2.2.1: (m + p - 1) times a forward and a backward pass."""
    layout = Layout(pipeline=pipeline, micro_batches=micro_batches, schedule=schedule)
    durations = {
        (part, stage): _Duration(seconds, 0.0)
        for part, seconds in (("forward", 1.0), ("backward", 2.0))
        for stage in range(pipeline)
    }
    hops = [0.0] * (pipeline - 1)
    expected = 3.0 * (micro_batches + pipeline - 1)
    assert _span_apart(orders(layout), durations, hops) == pytest.approx(expected)
    assert _span(orders(layout), durations, hops, lambda num_places: 1.0) == pytest.approx(expected)


def test_places_side_by_side_take_as_long_as_all_their_work() -> None:
    layout = Layout(pipeline=2, micro_batches=4)
    durations = {(part, stage): _Duration(1.0, 0.0) for part in ("forward", "backward") for stage in range(2)}
    span = _span(orders(layout), durations, [0.0], lambda num_places: 1 / num_places)
    assert span == pytest.approx(2 * 2 * 4)


def test_two_replicas_take_half_as_long_and_recomputing_a_third_more() -> None:
    whole = foreseen({}).compute
    assert foreseen({"replicate": 2}).compute == pytest.approx(whole / 2, rel=0.2)
    assert foreseen({"recompute": True}).compute == pytest.approx(whole * 4 / 3, rel=0.1)


def test_crowded_workers_slow_each_other_down() -> None:
    crowded = ALONE.model_copy(update={"cores": 1.0, "overlaps": False})
    assert foreseen({"replicate": 2}, crowded).compute == pytest.approx(2 * foreseen({"replicate": 2}).compute)


def test_messages_that_overlap_are_waited_for_only_beyond_the_computing() -> None:
    slow = ALONE.model_copy(update={"inside": Link(latency_us=1, gb_per_s=1), "overlaps": True})
    apart = slow.model_copy(update={"overlaps": False})
    for layout in ({"shard": 2}, {"replicate": 2}):
        assert 0 < foreseen(layout, slow).messages <= foreseen(layout, apart).messages


@pytest.mark.parametrize(
    ("layout", "num_rounds"),
    [
        ({"replicate": 2}, 2),  # a sum goes round twice
        ({"shard": 2}, 6 * 3),  # each unit is gathered twice and reduced once
        ({"tensor": 2}, 2 * (4 * (2 + 5) + 1) + 1),  # a layer sums twice forward, five times backward; then the head
        ({"tensor": 2, "sequence_parallel": True}, 4 * 8 + 3 + 1),  # each sum is a gathering and a scattering
        ({"context": 2}, 4 * 4 + 6 * 3),  # keys and values there and back; and the weights are sharded
    ],
    ids=str,
)
def test_every_message_costs_its_latency(layout: dict[str, Any], num_rounds: int) -> None:
    assert foreseen(layout, measured_links(latency_us=1000)).messages == pytest.approx(num_rounds * 1e-3, rel=0.01)


def test_what_torch_does_besides_is_counted_by_the_piece() -> None:
    over = {"split_layer_us": 100.0, "unit_us": 1000.0, "update_us": 10.0, "sharded_update_us": 50.0}
    device = ALONE.model_copy(update={"overheads": Overheads(**over)})
    extra = foreseen({"tensor": 2}, device).compute - foreseen({"tensor": 2}).compute
    assert extra == pytest.approx((4 * 7 + 1) * 100e-6)
    assert foreseen({"shard": 2}, device).compute - foreseen({"shard": 2}).compute == pytest.approx(6 * 1000e-6)
    num_weights = 4 * 9 + 1 + 2
    assert foreseen({}, device).optimizer - foreseen({}).optimizer == pytest.approx(num_weights * 10e-6)
    assert foreseen({"shard": 2}, device).optimizer - foreseen({"shard": 2}).optimizer == pytest.approx(
        num_weights * 50e-6
    )


def test_the_parts_add_up_to_the_step() -> None:
    time = foreseen({"pipeline": 2, "micro_batches": 4}, measured_links(100))
    assert time.total == time.compute + time.messages + time.idle + time.optimizer
    assert time.idle > 0
