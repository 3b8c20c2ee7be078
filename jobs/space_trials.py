"""Trials over a space, as Ray Tune makes them: the same `fit` as train, an epoch a call, on workers that stay."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray.tune
import torch
from ray.tune import Callback, CheckpointConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.result import DONE, RESULT_DUPLICATE
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from cluster.environment import applied
from cluster.layout import Layout
from cluster.reservation import trial_resources
from cluster.spec import dump, parse
from cluster.storage import Storage
from jobs.fit import EpochReport, fit
from jobs.gang import Gang
from jobs.parallel.checkpoint import Checkpoints
from jobs.parallel.collectives import done_by_first
from jobs.search.study import NUMBER
from jobs.search.trial import Point, Trial, why_not_tried
from jobs.spec import RingSpec
from jobs.trial_run import BYTES, NOT_TRIED, Search, book_of, checkpoints_of, trial_spec, values_in
from jobs.worker_group import Workers

TUNE_ENVIRONMENT = {"TUNE_DISABLE_STRICT_METRIC_CHECKING": "1"}
"""Else a trial that diverges at once, and so has no metric to tell of, would end the whole search."""


def make_trials(
    search: Search,
    opened: list[Trial],
    searcher: Searcher,
    scheduler: TrialScheduler,
    num_left: int,
    watch: Callback,
    last_epoch: int | None = None,
) -> None:
    """Let Ray Tune make trials, as many at a time as there is room for.

    Args:
        opened: those that have begun before.
        searcher: says what config each has: `config_of`.
        last_epoch: after which they leave off, though they train by the schedule of `train.num_epochs`.
    """
    spec = search.spec
    settings = {
        "spec": dump(spec),
        "storage": search.storage.uri,
        "prepared": search.prepared,
        "folder": search.folder,
        "metric": spec.train.early_stopping.metric,
        "last_epoch": last_epoch,
    }
    begun = {trial.number: trial for trial in opened}
    trainable = ray.tune.with_parameters(SpaceTrial, settings=settings, workers_of=search.workers_of, begun=begun)
    scratch = f"{search.folder}/tune"
    search.storage.remove(scratch)
    tuner = Tuner(
        ray.tune.with_resources(trainable, partial(_resources, workers_of=search.workers_of)),
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=num_left,
            max_concurrent_trials=spec.tune.max_concurrent,
            reuse_actors=True,
        ),
        run_config=RunConfig(
            name="search",
            storage_path=search.storage.path(scratch),
            storage_filesystem=search.storage.filesystem,
            callbacks=[watch],
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),  # `fit` has its own
            verbose=0,
        ),
    )
    with applied(TUNE_ENVIRONMENT):
        tuner.fit()


def _resources(config: dict[str, Any], workers_of: Callable[[int], Workers]) -> PlacementGroupFactory:
    """What Tune reserves for a trial; nothing for one that is left out."""
    if NOT_TRIED in config:
        return PlacementGroupFactory([{"CPU": 0.001}])  # Ray takes no request for nothing
    workers = workers_of(config[NUMBER])
    return trial_resources(workers.layout, workers.demand)


class SpaceTrial(ray.tune.Trainable):
    """A trial, and after it others with as many workers: these stay from one to the next."""

    def setup(
        self,
        config: dict[str, Any],
        settings: dict[str, Any] | None = None,
        workers_of: Callable[[int], Workers] | None = None,
        begun: dict[int, Trial] | None = None,
    ) -> None:
        """Called by Ray Tune for the first trial, which it may yet give to another process.

        Args:
            settings: of the search, the same for all its trials.
            begun: what is known of trials that have begun before.
        """
        assert settings is not None, "Ray gives it by name, as the next two"
        assert workers_of is not None
        assert begun is not None
        self._settings, self._workers_of, self._begun = settings, workers_of, begun
        self._gang: Gang | None = None
        self._waiting: dict[str, Any] | None = config
        """The config of a trial that has not begun: that is not before Ray Tune asks for its first epoch."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Ray Tune for another trial, once the one before has ended or was stopped."""
        self._waiting = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Called by Ray Tune for the next epoch. Where there is none, `TrialWatch` sees why."""
        if self._waiting is not None:
            self._begin(self._waiting)
            self._waiting = None
        if self._known:
            return self._result(self._known.pop(0))
        point = self._gang.epoch() if self._gang and self._is_tried else None
        return {RESULT_DUPLICATE: True, DONE: True} if point is None else self._result(point)

    def cleanup(self) -> None:
        """Called by Ray Tune at the end."""
        if self._gang:
            self._gang.end()

    def _begin(self, config: dict[str, Any]) -> None:
        self._trial = self._begun.get(config[NUMBER]) or Trial(config[NUMBER], {}, {})
        self._known = self._told_again()
        self._is_tried = not (NOT_TRIED in config or self._would_not_fit(config))
        if self._is_tried:
            layout = dump(self._workers_of(self._trial.number).layout)
            self._alive().begin({**self._settings, "config": config, "layout": layout, "trial": self._trial})

    def _told_again(self) -> list[Point]:
        """Epochs that are known are told once more where a scheduler has to hear of them: one that compares all at an
        end, as `last_epoch` says, does not."""
        return [*self._trial.curve] if self._settings["last_epoch"] is None else []

    def _would_not_fit(self, config: dict[str, Any]) -> bool:
        known = book_of(Storage(self._settings["storage"]), self._settings["folder"]).read().values()
        return not self._trial.curve and bool(why_not_tried(config.get(BYTES), [*known]))

    def _alive(self) -> Gang:
        """The workers that are there, or new ones, for a trial that begins."""
        if self._gang is None or not self._gang.is_alive:
            spec = parse(RingSpec, self._settings["spec"], "the driver's spec")
            # Tune starts a trial in a folder of its own, which goes with Ray's session.
            self._gang = Gang(self._workers_of(self._trial.number), train_point, spec.train, str(Path.cwd()))
        return self._gang

    def _result(self, point: Point) -> dict[str, Any]:
        metric = self._settings["metric"]
        return {"point": point, metric: point[metric], "num_epochs": point["num_epochs"]}


def train_point(settings: dict[str, Any], tell: Callable[[Point], bool], device: torch.device) -> None:
    """Train from where the trial stands, as long as `tell` says so; called on each of its workers."""
    spec = parse(RingSpec, settings["spec"], "the driver's spec")
    layout = parse(Layout, settings["layout"], "the driver's layout")
    spec = trial_spec(spec, values_in(settings["config"]), layout)
    storage, trial = Storage(settings["storage"]), settings["trial"]
    checkpoints = checkpoints_of(storage, settings["folder"], trial)
    done_by_first(partial(_forget_after, checkpoints, trial.step))

    def report(epoch: EpochReport) -> bool:
        # Alike on every worker. Where one is not finite, the weights diverged, and this epoch is no result.
        told = epoch.loss, epoch.metrics[spec.train.early_stopping.metric]
        return tell(_point(epoch)) if all(map(math.isfinite, told)) else True

    fit(spec, storage, settings["prepared"], checkpoints, report, device, last_epoch=settings["last_epoch"])


def _forget_after(checkpoints: Checkpoints, step: int) -> None:
    """Remove checkpoints of epochs that nobody was told of, so that they are trained, and told of, again."""
    for late in checkpoints.steps():
        if late > step:
            checkpoints.storage.remove(checkpoints.at(late))


def _point(epoch: EpochReport) -> Point:
    usage = epoch.usage
    taken = {"step_s": usage.step_s or 0.0, "peak_bytes": float(max(usage.peak_bytes))} if usage else {}
    return {**epoch.metrics, "num_epochs": epoch.epoch, "step": epoch.step, "train_loss": epoch.loss, **taken}
