"""train on real worker processes: same result whatever dies, metrics checked from outside, clear refusals."""

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.errors import ClusterError, DataError, SpecError
from cluster.lifecycle import Cluster
from cluster.registry import CHAMPION, Registry
from jobs import prepare, train
from jobs.lineage import train_inputs
from jobs.parallel.checkpoint import Checkpoints, Origin, Progress
from jobs.run_log import RunLog
from jobs.search.plan import Plan
from tests.jobs.conftest import Ring

LONG = ("train.num_epochs=30", "train.early_stopping.patience=30", "train.checkpoint_every_steps=7")
"""900 steps with a checkpoint every few."""
AMID = 206
"""A step between two checkpoints, of which the one before the newest has been written for sure: the newest waited."""


def metrics_of(ring: Ring, version: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(ring.storage.read(f"models/films/{version}/metrics.json"))
    return content["test"]


def only_version(ring: Ring) -> str:
    (version,) = Registry(ring.storage, "films").versions()
    return version


def checkpoints_of(ring: Ring, *overrides: str) -> Checkpoints:
    return Checkpoints(ring.storage, f"checkpoints/films/{train_inputs(ring.spec(*overrides), ring.storage).key}")


def losses_of(ring: Ring) -> dict[int, float]:
    """Each epoch's loss by its last step, as TensorBoard shows it."""
    events = EventAccumulator(ring.storage.path(f"{checkpoints_of(ring, *LONG).folder}/tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("train/loss")}


def start_and_kill(ring: Ring) -> None:
    """Leave a run whose driver was killed midway."""
    prepare.run(ring.spec(), ring.storage)
    ring.kill("step", AMID, "jobs.train", *LONG)


def went_on_from(ring: Ring) -> int:
    """The step that the second of two starts of workers went on from: near to where the first ended."""
    first, second = RunLog(ring.storage, checkpoints_of(ring, *LONG).folder).starts()
    assert first.step == 0
    assert AMID - 2 * 7 < second.step < AMID
    return second.step


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, prepared_ring: Ring) -> dict[str, float]:
    """Test metrics of a run that nothing happened to."""
    made = train.run(prepared_ring.spec(*LONG), prepared_ring.storage)
    return metrics_of(prepared_ring, made.folder.rsplit("/", 1)[1])


@pytest.mark.ray
def test_a_killed_worker_costs_nothing_but_time(cluster: Cluster, undisturbed: dict[str, float], ring: Ring) -> None:
    prepare.run(ring.spec(), ring.storage)
    process = ring.start_held("worker", AMID, "jobs.train", *LONG)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert went_on_from(ring)
    assert metrics_of(ring, only_version(ring)) == undisturbed


@pytest.mark.ray
def test_a_killed_driver_is_followed_by_a_run_that_goes_on(
    cluster: Cluster, undisturbed: dict[str, float], ring: Ring
) -> None:
    start_and_kill(ring)
    assert Registry(ring.storage, "films").versions() == []
    code, output = ring.call("jobs.train", *LONG)
    assert code == 0, output
    assert went_on_from(ring)
    assert "epoch 1/" not in output
    assert metrics_of(ring, only_version(ring)) == undisturbed


@pytest.mark.ray
def test_a_run_killed_before_it_published_trains_no_step_again(
    cluster: Cluster, undisturbed: dict[str, float], prepared_ring: Ring
) -> None:
    registry = Registry(prepared_ring.storage, "films")
    (version,) = [v for v in registry.versions() if metrics_of(prepared_ring, v) == undisturbed]
    prepared_ring.storage.remove(f"models/films/{version}")
    prepared_ring.storage.remove("models/films/aliases.json")
    before = checkpoints_of(prepared_ring, *LONG).steps()
    made = train.run(prepared_ring.spec(*LONG), prepared_ring.storage)
    assert made.ran
    assert checkpoints_of(prepared_ring, *LONG).steps() == before
    assert metrics_of(prepared_ring, made.folder.rsplit("/", 1)[1]) == undisturbed


@pytest.mark.ray
def test_any_layout_comes_to_the_same_metrics(cluster: Cluster, make_ring: Callable[[], Ring]) -> None:
    found = []
    for layout in ("{replicate: 1}", "{replicate: 2, shard: 2}"):
        ring = make_ring()
        prepare.run(ring.spec(), ring.storage)
        made = train.run(ring.spec(f"layout={layout}"), ring.storage)
        found.append(metrics_of(ring, made.folder.rsplit("/", 1)[1]))
    assert found[1]["rmse"] == pytest.approx(found[0]["rmse"], rel=1e-4)
    assert found[1]["ndcg_at_10"] == pytest.approx(found[0]["ndcg_at_10"], abs=0.02)


@pytest.mark.ray
def test_a_run_that_was_killed_goes_on_with_another_layout(
    cluster: Cluster, undisturbed: dict[str, float], prepared_ring: Ring, ring: Ring
) -> None:
    start_and_kill(ring)
    code, output = ring.call("jobs.train", *LONG, "layout={shard: 4}")
    assert code == 0, output
    went_on = went_on_from(ring)
    assert "epoch 1/" not in output
    found, wanted = losses_of(ring), losses_of(prepared_ring)
    assert found.keys() == wanted.keys()
    later = [step for step in wanted if step > went_on]
    assert [found[step] for step in later[:2]] == pytest.approx([wanted[step] for step in later[:2]], rel=1e-5)


@pytest.mark.ray
def test_a_version_is_published_promoted_and_then_skipped(cluster: Cluster, prepared_ring: Ring) -> None:
    spec = prepared_ring.spec("seed=3")
    on_interrupt = signal.getsignal(signal.SIGINT)
    made = train.run(spec, prepared_ring.storage)
    version = made.folder.rsplit("/", 1)[1]
    registry = Registry(prepared_ring.storage, "films")
    assert registry.resolve(CHAMPION) == version
    assert "| ndcg_at_10 |" in made.summary
    manifest = registry.manifest(version)
    assert manifest["prepared"].startswith("prepared/films/")
    assert set(manifest["files"]) == {
        "spec.yaml",
        "transform.json",
        "transform.arrow",
        "weights.safetensors",
        "metrics.json",
        "golden.parquet",
        "profile.json",
        "MODEL_CARD.md",
    }
    assert signal.getsignal(signal.SIGINT) is on_interrupt
    again = train.run(spec, prepared_ring.storage)
    assert (again.ran, again.why, again.folder) == (False, "unchanged", made.folder)


@pytest.mark.ray
def test_a_version_that_loses_to_a_baseline_is_not_promoted(cluster: Cluster, make_ring: Callable[[], Ring]) -> None:
    ring = make_ring()
    prepare.run(ring.spec(), ring.storage)
    hopeless = ("train.optimizer.learning_rate=2.0", "train.num_epochs=1", "workload.ranking_weight=0.0")
    made = train.run(ring.spec(*hopeless), ring.storage)
    assert "does not beat" in made.summary
    assert CHAMPION not in Registry(ring.storage, "films").aliases()


@pytest.mark.ray
def test_diverged_training_publishes_nothing_and_says_so(cluster: Cluster, prepared_ring: Ring) -> None:
    before = Registry(prepared_ring.storage, "films").versions()
    wild = ("train.optimizer.name=sgd", "train.optimizer.learning_rate=1e9")
    with pytest.raises(SpecError, match=r"training diverged before step .* Give a lower train.optimizer.learning_rate"):
        train.run(prepared_ring.spec(*wild), prepared_ring.storage)
    assert Registry(prepared_ring.storage, "films").versions() == before


@pytest.mark.ray
def test_training_stops_early_and_publishes_its_best_epoch(cluster: Cluster, prepared_ring: Ring) -> None:
    early = ("train.early_stopping.patience=1", "train.num_epochs=40", "train.optimizer.learning_rate=0.3")
    train.run(prepared_ring.spec(*early), prepared_ring.storage)
    checkpoints = checkpoints_of(prepared_ring, *early)
    last = checkpoints.progress(checkpoints.steps()[-1])
    assert last.stopped
    assert last.step < 40 * 30
    assert last.best_step in checkpoints.steps()
    assert last.best_step < last.step


def test_nothing_prepared_is_said_with_the_command(ring: Ring) -> None:
    with pytest.raises(DataError, match=r"nothing is prepared .* python -m jobs.prepare SPEC"):
        train.run(ring.spec(), ring.storage)


def test_a_batch_that_does_not_divide_is_refused_before_any_worker(ring: Ring) -> None:
    with pytest.raises(SpecError, match=r"train.batch_size=65 rows do not divide over layout.replicate=2; give"):
        train.run(ring.spec("train.batch_size=65"), ring.storage)


def test_an_unknown_metric_names_the_nearest(ring: Ring) -> None:
    with pytest.raises(SpecError, match=r"'ndcg10' is no metric of this workload. Did you mean 'ndcg_at_10'"):
        train.run(ring.spec("train.early_stopping.metric=ndcg10"), ring.storage)


@pytest.mark.ray
def test_more_workers_than_the_cluster_has_are_refused(cluster: Cluster, prepared_ring: Ring) -> None:
    with pytest.raises(
        ClusterError, match=r"replicate=64 needs 64 workers of 1 CPU, 64 CPUs in all; 6 are there on 1 nodes"
    ):
        train.run(prepared_ring.spec("layout.replicate=64"), prepared_ring.storage)


def test_plan_says_what_would_be_trained_and_writes_nothing(ring: Ring) -> None:
    planned = train.plan(ring.spec(), ring.storage)
    assert "train: run from the start (first run)" in planned
    assert "2 workers (replicate=2), global batch 64, at most 4 epochs" in planned
    assert not ring.storage.exists("checkpoints")


def test_weights_of_a_plan_are_copied_once_and_where_they_are_gone_it_is_said(ring: Ring) -> None:
    storage, plan = ring.storage, Plan({}, "ndcg_at_10", 0.5, (), checkpoint="plans/films/0123.weights")
    trained, own = (Checkpoints(storage, folder) for folder in (plan.checkpoint, "checkpoints/films/0123"))
    with pytest.raises(
        DataError, match=r"the weights of the plan, plans/films/0123.weights, are gone .* remove the plan"
    ):
        train._begin_with(plan, own)
    for step in (10, 20):
        progress = Progress(step, best_value=0.5, best_step=10)
        trained.publish(storage.stage(trained.at(step)), progress, Origin("", ""), keep=2)
    storage.copy(trained.at(10), own.at(10), storage.manifest(trained.at(10)))  # killed after the first of two
    train._begin_with(plan, own)
    assert own.steps() == [10, 20]
    own.publish(storage.stage(own.at(30)), Progress(30, best_value=0.6, best_step=30), Origin("", ""), keep=1)
    train._begin_with(plan, own)
    assert own.steps() == [30]
