import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.layout import Layout
from jobs.search.memory import Memory, is_by_units, kept_at_least, least_memory_of, memory_of, num_shards
from tests.jobs.parallel.training import BATCH_SIZE
from tests.jobs.parallel.workers import run_together
from tests.jobs.search.models import adamw, model_of, write_peaks

LAYOUTS: dict[int, list[dict[str, Any]]] = {
    1: [{}, {"recompute": True}, {"accumulation": 4}],
    2: [
        {"replicate": 2},
        {"shard": 2},
        {"tensor": 2, "sequence_parallel": True},
        {"context": 2},
        {"pipeline": 2, "micro_batches": 4},
        {"pipeline": 2, "micro_batches": 4, "schedule": "interleaved_1f1b"},
    ],
}


def foreseen(name: str, layout: Layout) -> Memory:
    rows = BATCH_SIZE // (layout.num_replicas * layout.accumulation * layout.micro_batches)
    return memory_of(layout, model_of(name).stretches(layout, rows), adamw, by_gloo=True)


@pytest.mark.parametrize("num_workers", LAYOUTS)
def test_the_fullest_worker_is_foreseen_within_a_tenth(num_workers: int, tmp_path: Path) -> None:
    run_together(num_workers, partial(write_peaks, name="wide", layouts=LAYOUTS[num_workers]), tmp_path, 120)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(num_workers)]
    for layout, peaks in zip(LAYOUTS[num_workers], zip(*ranks, strict=True), strict=True):
        assert foreseen("wide", Layout(**layout)).total == pytest.approx(max(peaks), rel=0.1), layout


def test_the_parts_are_those_of_the_worst_moment() -> None:
    memory = foreseen("wide", Layout())
    num_weights = sum(weight.num_bytes for link in model_of("wide").weights(Layout()) for weight in link)
    assert memory.weights == num_weights
    assert memory.optimizer == 2 * num_weights
    assert memory.total == sum(vars(memory).values())
    assert Memory(2**30, 0, 0, 2**29, 0).line() == "weights 1, activations 0.5"


def test_shards_and_stages_take_a_part_of_the_weights() -> None:
    whole = foreseen("wide", Layout())
    assert foreseen("wide", Layout(shard=2)).weights == pytest.approx(whole.weights / 2, rel=0.01)
    assert foreseen("wide", Layout(context=2)).weights == pytest.approx(whole.weights / 2, rel=0.01)
    assert foreseen("wide", Layout(pipeline=2, micro_batches=4)).weights < 0.6 * whole.weights
    assert foreseen("wide", Layout(replicate=2)).weights == whole.weights
    assert (num_shards(Layout(shard=2, context=2)), num_shards(Layout(replicate=2))) == (4, 1)


def test_only_replicas_alone_do_without_units() -> None:
    assert not is_by_units(Layout(replicate=2))
    assert not is_by_units(Layout(tensor=2))
    assert is_by_units(Layout(shard=2))
    assert is_by_units(Layout(replicate=2, tensor=2))


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"recompute": True},
        {"shard": 2, "accumulation": 2},
        {"pipeline": 2, "micro_batches": 8, "shard": 2},
        {"pipeline": 2, "micro_batches": 4, "schedule": "zbv"},
    ],
    ids=str,
)
def test_bounds_are_below_what_the_walk_finds(layout: dict[str, Any]) -> None:
    given, model = Layout(**layout), model_of("wide")
    rows = BATCH_SIZE // (given.num_replicas * given.accumulation * given.micro_batches)
    memory = foreseen("wide", given)
    least = least_memory_of(given, model.weights(given), adamw)
    kept = kept_at_least(given, model.stretches(given, rows))
    assert least.total <= memory.total * 1.001
    assert least.weights + least.optimizer + kept.total <= memory.total * 1.001


def test_gloo_copies_what_is_gathered() -> None:
    layout = Layout(shard=2)
    stretches = model_of("wide").stretches(layout, BATCH_SIZE // 2)
    assert memory_of(layout, stretches, adamw, True).total > memory_of(layout, stretches, adamw, False).total
