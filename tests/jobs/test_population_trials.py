"""A population on the suite's cluster whose members have two layouts; the barrier between generations needs none."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cluster.layout import Layout
from cluster.lifecycle import Cluster
from cluster.storage import Storage
from jobs.fit import EpochReport, fit
from jobs.lineage import prepared_folder
from jobs.parallel.checkpoint import Checkpoints, Progress
from jobs.population_trials import keep_checkpoint, next_generation, population_trials
from jobs.search.choice import plan_of
from jobs.search.population import Rule, first_values, lineage
from jobs.search.ranking import Outlook, Ranking
from jobs.search.space import Values
from jobs.search.trial import Outcome, Point, Stint, Trial
from jobs.spec import RingSpec
from jobs.trial_run import Search, trial_spec
from jobs.worker_group import Workers, workers_of
from tests.jobs.conftest import Ring

LAYOUTS = (Layout(), Layout(shard=2))
POPULATION = (
    "tune.scheduler=pbt",
    "tune.num_trials=2",
    "tune.space={train.optimizer.learning_rate: {low: 1e-3, high: 1e-1, log: true}, workload.dropout: [0.0, 0.1, 0.2]}",
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


def trained(search: Search, values: Values, checkpoints: Checkpoints, last_epoch: int) -> list[EpochReport]:
    """The epochs of one process that goes on from these checkpoints."""
    reports: list[EpochReport] = []
    spec = trial_spec(search.spec, values, Layout())
    fit(spec, search.storage, search.prepared, checkpoints, reports.append, last_epoch=last_epoch)
    return reports


def point_of(report: EpochReport) -> Point:
    return {**report.metrics, "num_epochs": report.epoch, "step": report.step, "train_loss": report.loss}


@pytest.mark.ray
def test_a_checkpoint_goes_from_one_layout_to_another_and_back_to_the_same_loss(
    prepared_ring: Ring, cluster: Cluster
) -> None:
    """The gang has failed, takes over from the member that trains alone, and a generation later the other way round."""
    search = search_of(prepared_ring, 2)
    storage, rule = search.storage, Rule.of(search.spec)
    alone, gang = (Trial(n, first_values(rule, n), {}, stints=(Stint(0, 0, n, first_values(rule, n)),)) for n in (0, 1))
    (first,) = trained(search, alone.values, search.checkpoints(alone), 1)
    search.book.note("000000", replace(alone, outcome="finished", curve=(point_of(first),)))
    search.book.note("000001", replace(gang, outcome="out of memory"))
    reference = Checkpoints(storage, "scratch/reference")
    search.checkpoints(alone).hand_over(first.step, reference)

    alone, gang = population_trials(search)
    assert [(stint.source, stint.step) for stint in gang.stints] == [(1, 0), (0, first.step)]
    (second,) = trained(search, gang.values, reference, 2)
    assert len(second.step_losses) == first.step
    assert (gang.curve[-1]["num_epochs"], gang.curve[-1]["step"]) == (2, 2 * first.step)
    assert gang.curve[-1]["train_loss"] == pytest.approx(second.loss, rel=1e-5)
    assert gang.curve[-1]["ndcg_at_10"] == pytest.approx(second.metrics["ndcg_at_10"], abs=1e-3)

    for trial, value in ((alone, 0.1), (gang, 0.9)):
        search.book.note(f"{trial.number:06d}", replace(trial, curve=({**trial.curve[-1], "ndcg_at_10": value},)))
    assert next_generation(search, rule, 1, 2)
    alone, gang = search.trials()
    assert [stint.source for stint in alone.stints] == [0, 0, 1]
    assert [(each.epoch, each.member) for each in lineage({0: alone, 1: gang}, 0)] == [(0, 0), (1, 1), (2, 0)]
    assert search.checkpoints(alone).origin(2 * first.step).layout == "shard=2"
    (third,) = trained(search, alone.values, search.checkpoints(alone), 3)
    (undisturbed,) = trained(search, alone.values, reference, 3)
    assert len(third.step_losses) == first.step
    assert third.step_losses == pytest.approx(undisturbed.step_losses, rel=1e-4)
    assert third.loss == pytest.approx(undisturbed.loss, rel=1e-5)


class DiesError(Exception):
    """In place of a kill of the driver."""


class DyingStorage(Storage):
    """Dies before, or halfway through, a change of what it holds."""

    num_left: ClassVar[int] = 0

    def _count(self) -> None:
        DyingStorage.num_left -= 1
        if DyingStorage.num_left < 0:
            raise DiesError

    def write(self, relative: str, content: bytes) -> None:
        self._count()
        super().write(relative, content)

    def remove(self, relative: str) -> None:
        self._count()
        super().remove(relative)

    def commit(self, staged: str, folder: str, manifest: Mapping[str, Any]) -> None:
        self._count()
        super().commit(staged, folder, manifest)


def member(number: int, value: float | None, outcome: Outcome = "finished") -> Trial:
    """After two epochs; the best was the first one."""
    values: Values = {"train.optimizer.learning_rate": 0.01 * (number + 1), "workload.dropout": 0.1}
    points = [{"num_epochs": epoch, "step": 10 * epoch, "ndcg_at_10": value or 0.0} for epoch in (1, 2)]
    curve = tuple(points if value is not None else points[:1])
    return Trial(number, values, {}, curve=curve, best=value, outcome=outcome, stints=(Stint(0, 0, number, values),))


def barrier(ring: Ring, storage: Storage) -> Search:
    """A search that stands between two generations, with checkpoints whose content says whose they are."""
    spec = ring.spec(*POPULATION, "tune.num_trials=5", "tune.num_epochs=4", "tune.perturb_every=2")
    search = Search(spec, storage, "", "plans/films/halfway.search", partial(mixed, spec), unforeseen)
    members = [member(0, 0.3), member(1, 0.5), member(2, None, "diverged"), member(3, 0.4), member(4, 0.1)]
    for each in members:
        search.book.note(f"{each.number:06d}", each)
        for step in (10, 20):
            folder = search.checkpoints(each).at(step)
            staged = storage.stage(folder)
            storage.write(f"{staged}/.metadata", b"%d" % each.number)
            progress = Progress(step, best_value=0.5, best_step=10, epochs_without_better=step // 10 - 1)
            storage.commit(staged, folder, {"progress": asdict(progress), "origin": {"spec": "", "layout": ""}})
    return search


def state_of(search: Search) -> dict[str, bytes]:
    """Every file of a search."""
    root = Path(search.storage.path(search.folder))
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "incoming" not in str(path)
    }


def test_a_barrier_is_passed_to_the_same_end_wherever_it_was_killed(
    ring: Ring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DyingStorage.num_left = 10**6
    undisturbed = barrier(ring, DyingStorage(str(tmp_path / "undisturbed")))
    rule = Rule.of(undisturbed.spec)
    before = DyingStorage.num_left
    assert next_generation(undisturbed, rule, 0, 2)
    num_changes = before - DyingStorage.num_left
    assert "after epoch 2 member 2 takes over from member 1: train.optimizer.learning_rate=" in capsys.readouterr().out
    assert num_changes > 8
    for num in range(num_changes):
        DyingStorage.num_left = 10**6
        killed = barrier(ring, DyingStorage(str(tmp_path / f"killed-{num}")))
        DyingStorage.num_left = num
        with pytest.raises(DiesError):
            next_generation(killed, rule, 0, 2)
        DyingStorage.num_left = 10**6
        assert next_generation(killed, rule, 0, 2)
        assert state_of(killed) == state_of(undisturbed)


def test_who_takes_over_has_newest_and_best_checkpoint_and_counts_its_patience_anew(ring: Ring) -> None:
    search = barrier(ring, ring.storage)
    assert next_generation(search, Rule.of(search.spec), 0, 2)
    winner, taker = search.trials()[1:3]
    assert (taker.outcome, taker.num_deaths, taker.num_epochs, taker.step) == ("under way", 0, 1, 20)
    checkpoints = search.checkpoints(taker)
    assert checkpoints.steps() == [10, 20]
    assert checkpoints.progress(20) == Progress(20, best_value=0.5, best_step=10, epochs_without_better=0)
    assert search.checkpoints(winner).progress(20).epochs_without_better == 1
    assert {search.storage.read(f"{checkpoints.at(step)}/.metadata") for step in (10, 20)} == {b"1"}
    assert not search.storage.exists(search.checkpoints(member(2, None)).folder)


def test_where_all_failed_there_is_no_next_generation(ring: Ring) -> None:
    search = barrier(ring, ring.storage)
    for number in range(5):
        search.book.note(f"{number:06d}", member(number, None, "diverged"))
    assert not next_generation(search, Rule.of(search.spec), 0, 2)
    assert [len(trial.stints) for trial in search.trials()] == [1] * 5


def test_the_weights_of_the_best_member_are_kept_with_the_plan(ring: Ring) -> None:
    search = barrier(ring, ring.storage)
    plan = plan_of("ndcg_at_10", "max", search.trials(), [], Ranking(()), [])
    assert (plan.best, plan.values) == (0.5, member(1, 0.5).values)
    kept = keep_checkpoint(ring.storage, search.folder, plan, "plans/films/0123.weights")
    assert kept.checkpoint == "plans/films/0123.weights"
    assert Checkpoints(ring.storage, kept.checkpoint).steps() == [10, 20]
    assert ring.storage.folders("plans/films") == []
