from collections import Counter
from typing import Any

import pytest

from cluster.layout import Layout
from jobs.parallel.pipeline import num_stages, stages_of
from jobs.search.pipeline_order import Action, orders

LAYOUTS: list[dict[str, Any]] = [
    {"pipeline": pipeline, "micro_batches": rounds * pipeline, "schedule": schedule}
    for pipeline in (2, 4)
    for rounds in (1, 3)
    for schedule in ("gpipe", "1f1b", "interleaved_1f1b", "interleaved_zero_bubble", "zbv")
]


def short(actions: list[Action]) -> str:
    return " ".join(f"{action.part[0]}{action.micro_batch}" for action in actions)


def test_1f1b_runs_ahead_as_far_as_the_pipeline_is_long() -> None:
    first, second = orders(Layout(pipeline=2, micro_batches=4))
    assert short(first) == "f0 f1 b0 f2 b1 f3 b2 b3"
    assert short(second) == "f0 b0 f1 b1 f2 b2 f3 b3"


def test_gpipe_runs_all_forward_first() -> None:
    for place in orders(Layout(pipeline=2, micro_batches=3, schedule="gpipe")):
        assert short(place) == "f0 f1 f2 b0 b1 b2"


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_each_stage_does_every_micro_batch_once_each_way(layout: dict[str, Any]) -> None:
    given = Layout(**layout)
    for place, actions in enumerate(orders(given)):
        counts = Counter((action.part, action.stage, action.micro_batch) for action in actions)
        assert set(counts.values()) == {1}
        backward = "backward_input" if any(part == "backward_input" for part, _, _ in counts) else "backward"
        for stage in stages_of(given, place):
            for number in range(given.micro_batches):
                assert ("forward", stage, number) in counts
                assert (backward, stage, number) in counts or ("backward", stage, number) in counts


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_no_place_waits_for_ever(layout: dict[str, Any]) -> None:
    given = Layout(**layout)
    queues = [list(actions) for actions in orders(given)]
    last, done = num_stages(given) - 1, set[tuple[str, int, int]]()

    def can_begin(action: Action) -> bool:
        if action.part == "forward":
            return action.stage == 0 or ("forward", action.stage - 1, action.micro_batch) in done
        if action.part == "backward_weight" or action.stage == last:
            return True
        return ("backward", action.stage + 1, action.micro_batch) in done

    while any(queues):
        ready = [queue for queue in queues if queue and can_begin(queue[0])]
        assert ready
        for queue in ready:
            action = queue.pop(0)
            if action.part != "backward_weight":
                done.add((action.part.removesuffix("_input"), action.stage, action.micro_batch))


def test_without_a_pipeline_passes_follow_each_other() -> None:
    assert [short(place) for place in orders(Layout(accumulation=2))] == ["f0 b0 f1 b1"]


def test_passes_of_a_pipeline_have_micro_batches_of_their_own() -> None:
    (first, _) = orders(Layout(pipeline=2, micro_batches=2, accumulation=2))
    assert short(first) == "f0 f1 b0 b1 f2 f3 b2 b3"
