"""fit without Ray: epochs and early stopping, going on after a stop, and one result for any number of processes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.errors import SpecError
from cluster.lifecycle import Cluster
from cluster.storage import Storage
from jobs import prepare
from jobs.fit import EpochReport, check, fit
from jobs.lineage import prepared_folder
from jobs.parallel.checkpoint import Checkpoints, Progress
from jobs.parallel.collectives import rank, world_size
from jobs.prepared import read_split, read_transform
from jobs.spec import RingSpec, load_ring
from jobs.workloads import WORKLOADS
from tests.jobs.conftest import NUM_USERS, RATINGS_A_USER, Ring
from tests.jobs.parallel.workers import run_together

NUM_ROWS = NUM_USERS * RATINGS_A_USER * 8 // 10
STEPS_AN_EPOCH = NUM_ROWS // 64
Report = Callable[[EpochReport], None]


class StoppedError(Exception):
    """What a test stops a run with."""


def fitted(ring: Ring, spec: RingSpec, checkpoints: Checkpoints | None = None) -> list[EpochReport]:
    """The reports of a run."""
    reports: list[EpochReport] = []
    fit(spec, ring.storage, prepared_folder(spec, ring.storage), checkpoints, reports.append)
    return reports


def checkpoints_at(ring: Ring, name: str) -> Checkpoints:
    return Checkpoints(ring.storage, f"checkpoints/films/{name}")


def single(ring: Ring, *overrides: str) -> RingSpec:
    """The spec for one process."""
    return ring.spec("layout.replicate=1", *overrides)


def state_at(checkpoints: Checkpoints, step: int) -> dict[str, object]:
    """Weights, optimizer and progress as they were saved."""
    folder = Path(checkpoints.storage.path(f"{checkpoints.folder}/step-{step:08d}"))
    tensors = {path.name: path.read_bytes() for path in folder.glob("*.distcp")}
    assert tensors
    return {**tensors, "progress": checkpoints.progress(step)}


def same_epochs(reports: Sequence[EpochReport]) -> list[EpochReport]:
    """The reports without what depends on the clock, or on where a run went on."""
    return [replace(report, rows_per_s=0, left_s=0, stall=0, step_losses=(), usage=None) for report in reports]


@pytest.mark.ray
def test_every_epoch_is_reported_and_the_loss_falls(cluster: Cluster, prepared_ring: Ring) -> None:
    reports = fitted(prepared_ring, single(prepared_ring))
    assert [(report.epoch, report.num_epochs) for report in reports] == [(number, 4) for number in (1, 2, 3, 4)]
    assert [report.step for report in reports] == [number * STEPS_AN_EPOCH for number in (1, 2, 3, 4)]
    assert {report.num_steps for report in reports} == {4 * STEPS_AN_EPOCH}
    losses = [report.loss for report in reports]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    assert reports[-1].left_s == 0
    assert all(set(report.metrics) == {"ndcg_at_10", "hit_rate_at_10", "rmse"} for report in reports)


@pytest.mark.ray
def test_the_best_epoch_is_the_one_with_the_best_metric_so_far(cluster: Cluster, prepared_ring: Ring) -> None:
    reports = fitted(prepared_ring, single(prepared_ring))
    values = [report.metrics["ndcg_at_10"] for report in reports]
    assert [report.is_best for report in reports] == [
        value > max(values[:place], default=-1) for place, value in enumerate(values)
    ]


@pytest.mark.ray
def test_the_same_seed_gives_the_same_run_and_another_seed_another(cluster: Cluster, prepared_ring: Ring) -> None:
    first, again, other = (
        same_epochs(fitted(prepared_ring, single(prepared_ring, "train.num_epochs=2", seed)))
        for seed in ("seed=1", "seed=1", "seed=2")
    )
    assert first == again
    assert first[0].loss != other[0].loss


@pytest.mark.ray
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_stopped_between_epochs_ends_as_one_that_was_not(
    cluster: Cluster, prepared_ring: Ring, optimizer: str
) -> None:
    spec = single(prepared_ring, f"train.optimizer.name={optimizer}")
    whole, stopped = (checkpoints_at(prepared_ring, f"{optimizer}-{name}") for name in ("whole", "stopped"))
    expected = same_epochs(fitted(prepared_ring, spec, whole))

    def stop_after_two(report: EpochReport) -> None:
        if report.epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(spec, prepared_ring.storage, prepared_folder(spec, prepared_ring.storage), stopped, stop_after_two)
    assert same_epochs(fitted(prepared_ring, spec, stopped)) == expected[2:]
    assert state_at(stopped, 4 * STEPS_AN_EPOCH) == state_at(whole, 4 * STEPS_AN_EPOCH)


@pytest.mark.ray
def test_a_run_stopped_amid_an_epoch_ends_as_one_that_was_not(cluster: Cluster, prepared_ring: Ring) -> None:
    spec = single(prepared_ring, "train.checkpoint_every_steps=7", "train.keep_checkpoints=100")
    whole, stopped = (checkpoints_at(prepared_ring, f"amid-{name}") for name in ("whole", "stopped"))
    expected = same_epochs(fitted(prepared_ring, spec, whole))
    fitted(prepared_ring, spec, stopped)
    amid = STEPS_AN_EPOCH + 12  # steps are counted over all epochs
    assert amid in stopped.steps()
    for step in stopped.steps():
        if step > amid:
            prepared_ring.storage.remove(f"{stopped.folder}/step-{step:08d}")
    resumed = same_epochs(fitted(prepared_ring, spec, stopped))
    assert resumed[0].loss == pytest.approx(expected[1].loss, rel=1e-6)  # summed in two parts
    assert replace(resumed[0], loss=expected[1].loss) == expected[1]
    assert resumed[1:] == expected[2:]
    assert stopped.steps() == whole.steps()
    assert state_at(stopped, 4 * STEPS_AN_EPOCH) == state_at(whole, 4 * STEPS_AN_EPOCH)


@pytest.mark.ray
def test_a_run_that_leaves_off_after_an_epoch_ends_as_one_that_did_not(cluster: Cluster, prepared_ring: Ring) -> None:
    spec, storage = single(prepared_ring), prepared_ring.storage
    prepared, reports = prepared_folder(spec, storage), list[EpochReport]()
    parts = checkpoints_at(prepared_ring, "in-parts")
    left = [fit(spec, storage, prepared, parts, reports.append, last_epoch=last) for last in (1, 3, 3, None)]
    assert left == [False, False, False, True]
    whole = checkpoints_at(prepared_ring, "in-one-go")
    assert same_epochs(fitted(prepared_ring, spec, whole)) == same_epochs(reports)
    assert state_at(parts, 4 * STEPS_AN_EPOCH) == state_at(whole, 4 * STEPS_AN_EPOCH)


@pytest.mark.ray
def test_a_finished_run_trains_nothing_more(cluster: Cluster, prepared_ring: Ring) -> None:
    spec, checkpoints = single(prepared_ring, "train.num_epochs=1"), checkpoints_at(prepared_ring, "finished")
    assert len(fitted(prepared_ring, spec, checkpoints)) == 1
    assert fitted(prepared_ring, spec, checkpoints) == []


@pytest.mark.ray
@pytest.mark.parametrize(("metric", "mode"), [("ndcg_at_10", "max"), ("rmse", "min")])
@pytest.mark.parametrize("patience", [1, 2])
def test_training_stops_after_patience_epochs_without_a_better_value(
    cluster: Cluster, prepared_ring: Ring, metric: str, mode: str, patience: int
) -> None:
    rule = f"train.early_stopping={{metric: {metric}, mode: {mode}, patience: {patience}}}"
    spec = single(prepared_ring, rule, "train.num_epochs=40", "train.optimizer.learning_rate=0.2")
    checkpoints = checkpoints_at(prepared_ring, f"{metric}-{patience}")
    reports = fitted(prepared_ring, spec, checkpoints)
    values = [report.metrics[metric] for report in reports]
    best = (max if mode == "max" else min)(values)
    assert len(reports) < 40
    assert len(values) - 1 - values.index(best) == patience
    end = checkpoints.progress(checkpoints.steps()[-1])
    expected = Progress(reports[-1].step, best, reports[values.index(best)].step, patience, stopped=True)
    assert end == expected
    assert end.best_step in checkpoints.steps()


@pytest.mark.ray
def test_diverged_weights_end_the_run_and_are_never_the_best(cluster: Cluster, prepared_ring: Ring) -> None:
    wild = ("train.optimizer.name=sgd", "train.optimizer.learning_rate=1e30")
    (report,) = fitted(prepared_ring, single(prepared_ring, *wild))
    assert not report.is_best
    assert report.loss != report.loss or report.loss == torch.inf


SETTINGS = [
    (f"train.optimizer.name={optimizer}", f"train.batch_size={batch_size}")
    for optimizer in ("adamw", "sgd")
    for batch_size in (100, 101)
]
"""Of 1,920 rows: a last batch of 20, and one of a single row, fewer than replicas."""


def specs(ring: Ring) -> list[RingSpec]:
    """With dropout: a row's mask is its own, wherever it is trained."""
    layout = f"layout.replicate={world_size()}"
    return [ring.spec("workload.dropout=0.3", "train.num_epochs=2", layout, *settings) for settings in SETTINGS]


def write_epochs(folder: Path, ring: Ring) -> None:
    """What one process of several reports of each setting."""
    reports = [[asdict(report) for report in fitted(ring, spec)] for spec in specs(ring)]
    (folder / f"{rank()}.json").write_text(json.dumps(reports))


@pytest.fixture(scope="module")
def alone(cluster: Cluster, prepared_ring: Ring) -> list[list[EpochReport]]:
    return [fitted(prepared_ring, spec) for spec in specs(prepared_ring)]


@pytest.mark.ray
@pytest.mark.parametrize("num_processes", [2, 4])
def test_any_number_of_processes_has_the_loss_and_gradient_of_one(
    prepared_ring: Ring, alone: list[list[EpochReport]], num_processes: int, tmp_path: Path
) -> None:
    run_together(num_processes, partial(write_epochs, ring=prepared_ring), tmp_path)
    for replica in range(num_processes):
        together = json.loads((tmp_path / f"{replica}.json").read_text())
        for settings, expected, got in zip(SETTINGS, alone, together, strict=True):
            assert [report["loss"] for report in got] == pytest.approx([e.loss for e in expected], rel=1e-5), settings
            norms = [report["gradient_norm"] for report in got]
            assert norms == pytest.approx([e.gradient_norm for e in expected], rel=1e-5), settings
            assert [report["step"] for report in got] == [report.step for report in expected]


TABLE = """
name: table
storage: {storage}
raw: {{events: {{path: raw/table}}}}
prepare: {{split: {{by: hash}}}}
workload: {{kind: tabular, label: label, numeric: [a, b], categorical: [place], hidden_dim: 8, feed_forward_dim: 8}}
train:
  num_epochs: 3
  batch_size: 16
  ema_decay: 0.99
  optimizer: {{learning_rate: 0.05}}
  early_stopping: {{metric: log_loss, mode: min}}
"""


@pytest.fixture
def table(tmp_path: Path) -> tuple[RingSpec, Storage]:
    """Prepared rows of a table, and a spec that averages weights."""
    storage = Storage(str(tmp_path / "storage"))
    generator = np.random.default_rng(0)
    lines = ["id,a,b,place,label"]
    for number, (a, b) in enumerate(generator.normal(size=(200, 2))):
        place = generator.choice(["north", "south"])
        lines.append(f"{number},{a},{b},{place},{'yes' if a + b + generator.normal() > 0 else 'no'}")
    storage.write("raw/table/table.csv", "\n".join([*lines, ""]).encode())
    (tmp_path / "table.yaml").write_text(TABLE.format(storage=storage.uri))
    spec = load_ring(tmp_path / "table.yaml")
    prepare.run(spec, storage)
    return spec, storage


def test_what_is_validated_and_published_is_the_average(table: tuple[RingSpec, Storage]) -> None:
    spec, storage = table
    prepared, checkpoints = prepared_folder(spec, storage), Checkpoints(storage, "checkpoints/table")
    reports: list[EpochReport] = []
    fit(spec, storage, prepared, checkpoints, reports.append)
    transform = read_transform(storage, prepared)
    loaded = {}
    for step in checkpoints.steps():
        model = WORKLOADS["tabular"].build(spec.workload, transform).eval()
        checkpoints.load_weights(step, model)
        valid = read_split(storage, prepared, "valid", WORKLOADS["tabular"].ties)
        loaded[step] = WORKLOADS["tabular"].evaluate(spec.workload, model, transform, valid)
    assert loaded == {report.step: report.metrics for report in reports if report.step in checkpoints.steps()}
    end = checkpoints.progress(checkpoints.steps()[-1])
    assert end.best_value == min(report.metrics["log_loss"] for report in reports)
    plain = RingSpec.model_validate(spec.model_dump() | {"train": spec.train.model_dump() | {"ema_decay": None}})
    without: list[EpochReport] = []
    fit(plain, storage, prepared, None, without.append)
    assert [report.loss for report in without] == [report.loss for report in reports]
    assert all(one.metrics != other.metrics for one, other in zip(without, reports, strict=True))


def test_a_run_that_averages_and_augments_ends_to_the_bit_as_one_that_was_not_stopped(
    table: tuple[RingSpec, Storage],
) -> None:
    spec, storage = table
    changed = {"train": {"checkpoint_every_steps": 3, "keep_checkpoints": 99}}
    changed |= {"workload": {"augment": {"noise": 0.1, "swap": 0.2, "drop": 0.1}}}
    given = spec.model_dump()
    spec = RingSpec.model_validate(given | {name: given[name] | keys for name, keys in changed.items()})
    prepared = prepared_folder(spec, storage)
    whole, stopped = (Checkpoints(storage, f"checkpoints/{name}") for name in ("whole", "stopped"))
    for checkpoints in (whole, stopped):
        fit(spec, storage, prepared, checkpoints, lambda report: None)
    end = whole.steps()[-1]
    amid = end // 2 // 3 * 3
    for step in stopped.steps():
        if step > amid:
            storage.remove(stopped.at(step))
    fit(spec, storage, prepared, stopped, lambda report: None)
    assert 0 < amid in stopped.steps()
    assert stopped.steps() == whole.steps()
    assert state_at(stopped, end) == state_at(whole, end)


REPORT = EpochReport(
    epoch=2,
    num_epochs=4,
    step=60,
    num_steps=120,
    loss=1.23456,
    gradient_norm=0.5,
    learning_rate=0.01,
    rows_per_s=12345.6,
    left_s=7.4,
    metrics={"ndcg_at_10": 0.25, "rmse": 0.9},
    stall=0.0123,
    is_best=True,
)


def test_a_line_of_progress_says_where_training_stands() -> None:
    line = "epoch 2/4  step 60/120  loss 1.2346  ndcg_at_10 0.2500  rmse 0.9000  12,346 rows/s  stall 1.2%  7 s left"
    assert REPORT.line() == f"{line} *"
    assert replace(REPORT, is_best=False).line() == line


def test_scalars_are_named_by_where_they_were_measured() -> None:
    assert REPORT.scalars() == {
        "valid/ndcg_at_10": 0.25,
        "valid/rmse": 0.9,
        "train/loss": 1.23456,
        "train/gradient_norm": 0.5,
        "train/learning_rate": 0.01,
        "train/rows_per_s": 12345.6,
        "train/stall": 0.0123,
    }


def test_check_passes_what_can_be_trained(ring: Ring) -> None:
    for metric in WORKLOADS["recommender"].metrics:
        check(ring.spec("layout.replicate=4", f"train.early_stopping.metric={metric}"))


def test_check_names_the_batch_and_the_way_out(ring: Ring) -> None:
    message = "train.batch_size=64 rows do not divide over layout.replicate=3; give train.batch_size=63 or another"
    with pytest.raises(SpecError, match=message):
        check(ring.spec("layout.replicate=3"))


def test_check_names_the_nearest_metric(ring: Ring) -> None:
    message = r"train.early_stopping.metric: 'rmsee' is no metric of this workload. Did you mean 'rmse'\? Valid: "
    with pytest.raises(SpecError, match=message):
        check(ring.spec("train.early_stopping.metric=rmsee"))


@pytest.mark.ray
def test_a_run_that_is_asked_to_stop_saves_its_last_step_and_goes_on_from_it(
    cluster: Cluster, prepared_ring: Ring
) -> None:
    spec = single(prepared_ring)
    whole, stopped = (checkpoints_at(prepared_ring, f"asked-{name}") for name in ("whole", "stopped"))
    expected = same_epochs(fitted(prepared_ring, spec, whole))
    prepared = prepared_folder(spec, prepared_ring.storage)
    reports: list[EpochReport] = []
    assert not fit(spec, prepared_ring.storage, prepared, stopped, reports.append, is_to_stop=lambda: len(reports) == 1)
    (last,) = stopped.steps()[-1:]
    assert STEPS_AN_EPOCH < last < 2 * STEPS_AN_EPOCH
    assert stopped.progress(last).epoch_loss > 0
    assert fit(spec, prepared_ring.storage, prepared, stopped, reports.append, is_to_stop=lambda: False)
    found = same_epochs(reports)
    assert found[1].loss == pytest.approx(expected[1].loss, rel=1e-6)  # summed in two parts
    assert [found[0], replace(found[1], loss=expected[1].loss), *found[2:]] == expected
    assert state_at(stopped, 4 * STEPS_AN_EPOCH) == state_at(whole, 4 * STEPS_AN_EPOCH)
