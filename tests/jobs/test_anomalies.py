"""Planted faults: first as numbers, then in real training of handwritten digits."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster.storage import Storage
from jobs import prepare
from jobs.anomalies import OF_FALLING_LOSS, Anomaly, Watch
from jobs.examples import digits, write_changed
from jobs.fit import EpochReport, fit
from jobs.lineage import prepared_folder
from jobs.parallel.feed import Rows, in_order
from jobs.prepared import open_split
from jobs.spec import EarlyStoppingSpec, RingSpec, load_ring
from jobs.workloads import WORKLOADS, vision
from jobs.workloads.chain import Batch

SPECS = Path(__file__).parents[2] / "jobs/specs"
RULE = EarlyStoppingSpec(metric="accuracy")
ONE = EpochReport(
    epoch=1,
    num_epochs=10,
    step=20,
    num_steps=200,
    loss=1.0,
    gradient_norm=1.0,
    learning_rate=0.1,
    rows_per_s=100.0,
    stall=0.0,
    left_s=1.0,
    metrics={"accuracy": 0.5, "log_loss": 0.7},
    is_best=True,
)


def seen(reports: Sequence[EpochReport]) -> list[Anomaly]:
    watch = Watch(RULE, frozenset({"log_loss"}))
    return [anomaly for report in reports for anomaly in watch.see(report)]


def epochs(losses: Sequence[float], accuracies: Sequence[float], num_epochs: int = 10) -> list[EpochReport]:
    """One of 20 steps each, without the steps' losses."""
    return [
        replace(
            ONE,
            epoch=number,
            num_epochs=num_epochs,
            step=20 * number,
            loss=loss,
            metrics={"accuracy": accuracy},
            is_best=accuracy == max(accuracies[:number]),
        )
        for number, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), 1)
    ]


def noisy(num_steps: int = 40) -> list[float]:
    return (np.linspace(2, 1, num_steps) + np.random.default_rng(0).normal(0, 0.1, num_steps)).tolist()


def of_steps(losses: Sequence[float]) -> list[Anomaly]:
    return seen([replace(ONE, step=len(losses), step_losses=tuple(losses), loss=float(np.mean(losses)))])


def test_a_noisy_loss_that_falls_is_nothing_to_tell() -> None:
    assert of_steps(noisy()) == []


def test_a_loss_that_is_not_finite_amid_usual_ones_is_of_bad_rows() -> None:
    losses = noisy()
    losses[17:] = [math.nan] * 23
    [found] = of_steps(losses)
    assert (found.kind, found.step) == ("bad rows", 18)
    assert found.line().startswith(
        "warning: bad rows at step 18: the loss is nan though the steps before were as usual"
    )


def test_a_loss_that_rose_before_it_was_not_finite_diverged() -> None:
    [spike, found] = of_steps([*noisy()[:10], 20.0, 3e4, 1e9, math.inf, math.nan])[-2:]
    assert (found.kind, found.step) == ("divergence", 14)
    assert spike.kind == "spike"
    assert "ten times lower" in found.advice


def test_a_loss_that_stays_far_above_its_beginning_diverged() -> None:
    [found] = of_steps([2.0, 2.1, 1.9, 2.0, 2.0, *[50.0 + step for step in range(60)]])
    assert found.kind == "divergence"
    assert "began at 2" in found.seen


def test_one_step_far_above_the_others_is_a_spike() -> None:
    losses = noisy()
    losses[30] = 9.0
    [found] = of_steps(losses)
    assert (found.kind, found.step) == ("spike", 31)


def test_steps_are_compared_with_those_of_the_epoch_before() -> None:
    first = replace(ONE, step=40, step_losses=tuple(noisy()))
    second = replace(ONE, epoch=2, step=43, step_losses=(1.0, 30.0, 1.0))
    [found] = seen([first, second])
    assert (found.kind, found.step) == ("spike", 42)


def test_a_loss_that_stands_still_is_told_once() -> None:
    [found] = seen(epochs([3, 2, 1, 1.0001, 1.0002, 1.0001, 1.0001], [0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3]))
    assert (found.kind, found.step) == ("plateau", 60)


def test_a_metric_that_gets_worse_while_the_loss_falls_is_over_fit() -> None:
    [found] = seen(epochs([3, 2, 1.5, 1, 0.5], [0.5, 0.7, 0.69, 0.66, 0.6]))
    assert (found.kind, found.step) == ("over-fit", 40)
    assert "got worse from 0.7000 to 0.6600 while the training loss fell from 2 to 1" in found.seen
    assert seen(epochs([3, 2, 1.5, 1.6, 1.7], [0.5, 0.7, 0.69, 0.66, 0.6])) == []


def test_a_loss_that_hardly_fell_is_under_fit() -> None:
    [found] = seen(epochs([1.0, 0.98, 0.96], [0.5, 0.5, 0.5], num_epochs=3))
    assert (found.kind, found.step) == ("under-fit", 60)


def test_a_run_that_ends_while_it_gets_better_ended_early() -> None:
    [found] = seen(epochs([3, 2, 1], [0.5, 0.6, 0.7], num_epochs=3))
    assert (found.kind, found.step) == ("ended early", 60)
    assert seen(epochs([3, 2, 1], [0.5, 0.7, 0.701], num_epochs=3)) == []


def test_waiting_for_rows_is_starved_input() -> None:
    [found] = seen([replace(ONE, stall=0.4)])
    assert found.kind == "starved input"
    assert "stood still for 40% of epoch 1" in found.seen
    assert seen([replace(ONE, stall=0.2)]) == []


@pytest.mark.parametrize("metrics", [{"accuracy": 0.9995}, {"accuracy": 0.9, "log_loss": 0.0005}])
def test_a_metric_that_is_too_good_smells_of_the_label(metrics: dict[str, float]) -> None:
    [found] = seen([replace(ONE, metrics=metrics)])
    assert found.kind == "leaked label"


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> tuple[RingSpec, Storage]:
    storage = Storage(str(tmp_path_factory.mktemp("digits")))
    write_changed(storage, digits())
    overrides = ("train.num_epochs=3", "workload.block_channels=[8, 16]", "layout={replicate: 1}")
    spec = load_ring(SPECS / "vision.yaml", overrides)
    prepare.run(spec, storage)
    return spec, storage


def trained(ring: tuple[RingSpec, Storage], rows: Rows | None = None) -> list[Anomaly]:
    spec, storage = ring
    watch, found = Watch(spec.train.early_stopping, WORKLOADS[spec.workload.kind].lower_is_better), list[Anomaly]()
    prepared = prepared_folder(spec, storage)
    fit(spec, storage, prepared, None, lambda report: found.extend(watch.see(report)), rows=rows)
    return found


def test_a_run_without_fault_shows_none(ring: tuple[RingSpec, Storage]) -> None:
    might = {"ended early", "starved input"}  # the first is so; how fast rows come is the machine's matter
    assert {anomaly.kind for anomaly in trained(ring)} <= might


def test_one_value_that_is_not_finite_is_found_with_its_step(
    ring: tuple[RingSpec, Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_size, tensors, calls = ring[0].train.batch_size, vision.tensors, list[int]()

    def with_nan(rows: pa.Table) -> Batch:
        batch = tensors(rows)
        before = sum(calls)
        calls.append(rows.num_rows)
        for place in range(rows.num_rows):
            if before + place == 13 * batch_size:  # the first row of step 13: a batch is looked at before the first one
                batch["pixels"][place, 3] = torch.nan
        return batch

    monkeypatch.setattr(vision, "tensors", with_nan)
    [found] = trained(ring)
    assert (found.kind, found.step) == ("bad rows", 13)


def test_a_learning_rate_a_thousand_times_too_high_diverges(ring: tuple[RingSpec, Storage]) -> None:
    spec, storage = ring
    optimizer = spec.train.optimizer
    faster = optimizer.model_copy(update={"learning_rate": 1000 * optimizer.learning_rate})
    train = spec.train.model_copy(update={"optimizer": faster, "schedule": "constant"})
    found = trained((spec.model_copy(update={"train": train}), storage))
    assert "divergence" in {anomaly.kind for anomaly in found}


def test_rows_that_come_slowly_starve_training(ring: tuple[RingSpec, Storage]) -> None:
    spec, storage = ring
    split = open_split(storage, prepared_folder(spec, storage), "train", vision.ties)
    quick = in_order(split, spec.seed, spec.train.shuffle_rows)

    def slow(*given: Any) -> Iterator[pa.Table]:
        for part in quick(*given):
            time.sleep(1.0)
            yield part

    assert "starved input" in {anomaly.kind for anomaly in trained(ring, slow)}


def test_a_column_that_holds_the_label_is_too_good(tmp_path: Path) -> None:
    storage, draw = Storage(str(tmp_path)), np.random.default_rng(0)
    label = draw.choice(["good", "bad"], 3000)
    table = pa.table({"id": [f"{n}" for n in range(3000)], "noise": draw.normal(size=3000), "outcome": label})
    pa.parquet.write_table(table.append_column("label", pa.array(label)), tmp_path / "rows.parquet")
    spec = RingSpec.model_validate(
        {
            "name": "loans",
            "storage": str(tmp_path),
            "raw": {"events": {"path": "rows.parquet"}},
            "prepare": {"split": {"by": "hash"}},
            "workload": {"kind": "tabular", "label": "label", "numeric": ("noise",), "categorical": ("outcome",)},
            "train": {"num_epochs": 5, "batch_size": 64, "early_stopping": {"metric": "accuracy"}},
        }
    )
    prepare.run(spec, storage)
    assert "leaked label" in {anomaly.kind for anomaly in trained((spec, storage))}


def test_every_step_has_its_loss(ring: tuple[RingSpec, Storage]) -> None:
    spec, storage = ring
    reports: list[EpochReport] = []
    fit(spec, storage, prepared_folder(spec, storage), None, reports.append)
    for report in reports:
        assert len(report.step_losses) == report.num_steps // report.num_epochs
        assert float(np.mean(report.step_losses)) == pytest.approx(report.loss, rel=0.02)  # the last step is smaller


def test_where_players_take_turns_a_loss_that_rises_says_nothing_and_one_that_is_no_number_does() -> None:
    watch = Watch(RULE, frozenset(), OF_FALLING_LOSS)
    rising = epochs([1.0, 1.5, 2.0], [0.5, 0.5, 0.5], num_epochs=3)
    assert "under-fit" in {anomaly.kind for anomaly in seen(rising)}
    assert [anomaly for report in rising for anomaly in watch.see(report)] == []
    [found] = watch.see(replace(ONE, step=21, loss=math.nan, step_losses=(math.nan,)))
    assert found.kind == "divergence"
