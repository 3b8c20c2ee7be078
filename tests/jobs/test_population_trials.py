"""A population on the suite's cluster whose members have two layouts, and the barrier between generations without one."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cluster.layout import Layout
from cluster.lifecycle import Cluster
from cluster.spec import with_values
from cluster.storage import Storage
from jobs.fit import EpochReport, fit
from jobs.lineage import prepared_folder
from jobs.parallel.checkpoint import Checkpoints, Progress
from jobs.population_trials import keep_checkpoint, next_generation, population_trials
from jobs.search.choice import plan_of
from jobs.search.population import Rule
from jobs.search.ranking import Outlook, Ranking
from jobs.search.trial import Stint, Trial
from jobs.spec import RingSpec
from jobs.trial_run import Search, trial_spec
from jobs.worker_group import Workers, workers_of
from tests.jobs.conftest import Ring

LAYOUTS = (Layout(), Layout(shard=2))
POPULATION = (
    "tune={scheduler: pbt, num_trials: 2, num_epochs: 3, space: {train.optimizer.learning_rate: {low: 1e-3, high: 1e-1, "
    "log: true}, workload.dropout: {low: 0.0, high: 0.4}}}",
    "placement.cpus_per_worker=0.5",
    "train.optimizer.name=adam",
)


def mixed(spec: RingSpec, number: int) -> Workers:
    """The first member trains alone, the second on a gang of two."""
    return workers_of(spec, LAYOUTS[number], 0)


def unforeseen(spec: RingSpec, layout: Layout) -> Outlook:
    return Outlook(layout, None, None)


def search_of(ring: Ring, num_epochs: int) -> Search:
    spec = ring.spec(*POPULATION, f"tune.num_epochs={num_epochs}")
    folder = "plans/films/mixed.search"
    return Search(spec, ring.storage, prepared_folder(spec, ring.storage), folder, partial(mixed, spec), unforeseen)


def let_win(search: Search, number: int) -> None:
    """Write another metric of the last epoch into the book, by which this member is the best."""
    for trial in search.trials():
        last = {**trial.curve[-1], "ndcg_at_10": 0.9 if trial.number == number else 0.1}
        search.book.note(f"{trial.number:06d}", replace(trial, curve=(*trial.curve[:-1], last)))


def undisturbed(ring: Ring, search: Search, source: Trial, taker: Trial, scratch: str) -> EpochReport:
    """The next epoch of a run of one process that goes on from a checkpoint with the values of another member."""
    copied = Checkpoints(ring.storage, scratch)
    search.checkpoints(source).hand_over(source.step, copied)
    spec = trial_spec(search.spec, taker.values, Layout())
    reports: list[EpochReport] = []
    fit(spec, ring.storage, search.prepared, copied, reports.append, last_epoch=source.num_epochs + 1)
    (report,) = reports
    return report


@pytest.mark.ray
def test_checkpoints_go_from_one_layout_to_another_and_back_to_the_same_loss(
    prepared_ring: Ring, cluster: Cluster
) -> None:
    """Each round goes on with the search of the one before, as after a kill, and the book says who has won it."""
    alone, gang = population_trials(search_of(prepared_ring, 1))
    assert [trial.layout for trial in (alone, gang)] == [{}, {"shard": 2}]
    for source, taker, epoch in ((gang, alone, 1), (alone, gang, 2)):
        search = search_of(prepared_ring, epoch + 1)
        let_win(search, source.number)
        source = search.trials()[source.number]
        population_trials(search)
        now = search.trials()[taker.number]
        assert [stint.source for stint in now.stints][-1] == source.number
        assert now.stints[-1].step == source.step
        assert now.values == now.stints[-1].values != source.values
        report = undisturbed(prepared_ring, search, source, now, f"scratch/{epoch}")
        assert (now.curve[-1]["num_epochs"], now.curve[-1]["step"]) == (report.epoch, report.step)
        assert len(report.step_losses) == source.step // epoch
        assert now.curve[-1]["train_loss"] == pytest.approx(report.loss, rel=1e-4)
        assert now.curve[-1]["ndcg_at_10"] == pytest.approx(report.metrics["ndcg_at_10"], abs=2e-3)
