"""The second phase of a search: trials over the space, drawn by Optuna, the weak ones stopped early by ASHA.

Each runs the same `fit` as train, on its own reservation. What is known of each is in the search's book, so a search
whose driver was killed goes on: trials that were under way go on from their last checkpoints.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.tune
import torch
from ray.tune import PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.optuna import OptunaSearch

from cluster.environment import applied
from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.reservation import TrialTrainer, trial_resources
from cluster.spec import dump, parse, with_values
from cluster.storage import Storage
from jobs.fit import EpochReport, fit
from jobs.parallel.checkpoint import Checkpoints
from jobs.parallel.collectives import done_by_first
from jobs.search.book import Book
from jobs.search.ranking import Outlook, Unfit
from jobs.search.space import Values, in_order, own_values, sample
from jobs.search.study import NUMBER, STUDY, asha_of, number_of, sampler_of, study_of
from jobs.search.trial import Point, Trial, is_open, values_of, why_not_tried
from jobs.spec import RingSpec
from jobs.trial_watch import TrialWatch
from jobs.worker_group import Workers, device_here, run_on_workers

TUNE_ENVIRONMENT = {"TUNE_DISABLE_STRICT_METRIC_CHECKING": "1"}
"""Else a trial that diverges at once, and so has no metric to tell of, would end the whole search."""
NOT_TRIED, BYTES, STEP_S = "not tried", "predicted_bytes", "predicted_step_s"
"""Beside the values, what a trial's config has: why it is left out, and its forecast."""
Foresee = Callable[[RingSpec, Layout], Outlook | Unfit]
"""The forecast of a spec on a layout."""


@dataclass(frozen=True)
class Search:
    """A search over a space, and where it is written down."""

    spec: RingSpec
    storage: Storage
    prepared: str
    folder: str
    """For the book and for checkpoints."""
    workers_of: Callable[[int], Workers]
    """On which the trial of a number trains; a function that can be pickled by name, as the next one."""
    foresee: Foresee

    @property
    def book(self) -> Book[Trial]:
        """Of its trials."""
        return book_of(self.storage, self.folder)

    def trials(self) -> list[Trial]:
        """Those that are known, in the order of their numbers."""
        return [*self.book.read().values()]


def book_of(storage: Storage, folder: str) -> Book[Trial]:
    """The book of the search in a folder."""
    return Book(storage, f"{folder}/trials", Trial)


def quality_trials(search: Search) -> list[Trial]:
    """Make all trials of the search, going on with those that are known.

    Raises:
        KeyboardInterrupt: the search was interrupted; called again, it goes on.
    """
    while True:
        known = search.trials()
        opened = [trial for trial in known if is_open(trial, search.spec.train.max_failures)]
        num_left = len(opened) + max(search.spec.tune.num_trials - len(known), 0)
        if not num_left:
            return known
        _make(search, known, opened, num_left)
        if _was_interrupted(search, known):
            raise KeyboardInterrupt


def _make(search: Search, known: list[Trial], opened: list[Trial], num_left: int) -> None:
    """Let Ray Tune make the trials that are left."""
    spec, rule = search.spec, search.spec.train.early_stopping
    space = in_order(spec.tune.space)
    by_number = {trial.number: trial for trial in known}
    ended = [trial for trial in known if trial not in opened]

    def begun(config: dict[str, Any]) -> Trial:
        number, why = config[NUMBER], config.get(NOT_TRIED, "")
        if number in by_number:
            return replace(by_number[number], outcome="under way", said=why)
        layout = values_of(search.workers_of(number).layout)
        return Trial(number, _values_in(config), layout, config.get(BYTES), config.get(STEP_S), said=why)

    settings = {"spec": dump(spec), "storage": search.storage.uri, "prepared": search.prepared, "folder": search.folder}
    curves = {trial.number: trial.curve for trial in opened}
    trainable = ray.tune.with_parameters(
        run_trial, settings=settings, workers_of=search.workers_of, curves=curves, metric=rule.metric
    )
    scratch = f"{search.folder}/tune"
    search.storage.remove(scratch)
    all_alone = all(search.workers_of(number).layout.num_workers == 1 for number in range(spec.tune.num_trials))
    tuner = Tuner(
        ray.tune.with_resources(trainable, partial(_resources, workers_of=search.workers_of)),
        tune_config=TuneConfig(
            search_alg=OptunaSearch(
                partial(_propose, search=search, known=known),
                metric=rule.metric,
                mode=rule.mode,
                sampler=sampler_of(spec.seed, known),
                storage=study_of(known, opened, space, rule.metric, rule.mode),
                study_name=STUDY,
            ),
            scheduler=asha_of(ended, rule.metric, rule.mode, spec.tune.num_epochs),
            num_samples=num_left,
            max_concurrent_trials=spec.tune.max_concurrent,
            reuse_actors=all_alone,  # one whose workers were training when it was stopped cannot be used again
        ),
        run_config=RunConfig(
            name="search",
            storage_path=search.storage.path(scratch),
            storage_filesystem=search.storage.filesystem,
            callbacks=[
                TrialWatch(
                    search.book, begun, rule.metric, rule.mode, spec.tune.num_epochs, spec.tune.num_trials, len(ended)
                )
            ],
            verbose=0,
        ),
    )
    with applied(TUNE_ENVIRONMENT):
        tuner.fit()


def _propose(asked: Any, search: Search, known: Sequence[Trial]) -> dict[str, Any]:
    """What a trial that Optuna is asked for has beside the values that are drawn here. Ray pickles what calls it."""
    spec, number = search.spec, number_of(asked, known)
    return {NUMBER: number, **_outlook(search, number, sample(asked, in_order(spec.tune.space), own_values(spec)))}


def _outlook(search: Search, number: int, values: Values) -> dict[str, Any]:
    """What is foreseen of a trial, and why it is left out, where it cannot fit."""
    try:
        spec = trial_spec(search.spec, values, search.workers_of(number).layout)
    except SpecError:
        return {}  # values that do not go together: the trial itself says so
    forecast = search.foresee(spec, spec.layout)
    if isinstance(forecast, Unfit):
        return {NOT_TRIED: forecast.reason}
    return {BYTES: forecast.memory_bytes, STEP_S: forecast.step_s}


def trial_spec(spec: RingSpec, values: Values, layout: Layout) -> RingSpec:
    """What a trial trains: the values of its point, on the layout but for a precision among the values.

    Raises:
        SpecError: they do not go together.
    """
    on_layout = spec.model_copy(update={"layout": layout})
    return with_values(on_layout, {**values, "train.num_epochs": spec.tune.num_epochs})


def _values_in(config: dict[str, Any]) -> Values:
    return {key: value for key, value in config.items() if key not in (NUMBER, NOT_TRIED, BYTES, STEP_S)}


def _resources(config: dict[str, Any], workers_of: Callable[[int], Workers]) -> PlacementGroupFactory:
    """What Tune reserves for a trial; nothing for one that is left out."""
    if NOT_TRIED in config:
        return PlacementGroupFactory([{"CPU": 0.001}])  # Ray takes no request for nothing
    workers = workers_of(config[NUMBER])
    return trial_resources(workers.layout, workers.demand)


def _was_interrupted(search: Search, before: Sequence[Trial]) -> bool:
    """Whether Ray Tune came back with trials under way, or has begun none of those that were left."""
    now = search.trials()
    return any(trial.outcome == "under way" for trial in now) or now == list(before)


def run_trial(
    config: dict[str, Any],
    settings: dict[str, str],
    workers_of: Callable[[int], Workers],
    curves: dict[int, tuple[Point, ...]],
    metric: str,
) -> None:
    """What Ray Tune calls for a trial: on one worker, which is this process, or on several in the trial's reservation.

    Args:
        curves: of trials that are begun again, the epochs that are known; Tune hears of them once more.
    """
    storage = Storage(settings["storage"])
    known = book_of(storage, settings["folder"]).read().values()
    if NOT_TRIED in config or why_not_tried(config.get(BYTES), [*known]):
        return  # without a result; `TrialWatch` sees why
    workers, curve = workers_of(config[NUMBER]), curves.get(config[NUMBER], ())
    given: dict[str, Any] = {**settings, "config": config, "layout": dump(workers.layout), "curve": curve}
    if workers.layout.num_workers == 1:
        _fit(given, lambda point: ray.tune.report(_result(point, metric)), torch.device(workers.device))
        return
    spec = parse(RingSpec, settings["spec"], "the driver's spec")
    run_on_workers(
        workers,
        TrialTrainer,
        run_gang_worker,
        {**given, "metric": metric, "device": workers.device},
        name="trial",
        scratch=str(Path.cwd()),  # of the trial's own: Tune starts it in a folder that goes with Ray's session
        train=spec.train.model_copy(update={"max_failures": 0}),
        callbacks=[TuneReportCallback()],
    )


def run_gang_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls on every worker of a trial."""
    metric = settings["metric"]
    _fit(settings, lambda point: ray.train.report(_result(point, metric)), device_here(settings["device"]))


def _fit(settings: dict[str, Any], tell: Callable[[Point], None], device: torch.device) -> None:
    spec = parse(RingSpec, settings["spec"], "the driver's spec")
    layout = parse(Layout, settings["layout"], "the driver's layout")
    spec = trial_spec(spec, _values_in(settings["config"]), layout)
    storage, curve = Storage(settings["storage"]), settings["curve"]
    checkpoints = Checkpoints(storage, checkpoints_of(settings["folder"], settings["config"][NUMBER]))
    for point in curve:
        tell(point)
    _forget_after(checkpoints, int(curve[-1]["step"]) if curve else 0)

    def report(epoch: EpochReport) -> None:
        if math.isfinite(epoch.loss):  # alike on every worker; else the weights diverged, and this epoch is no result
            tell(_point(epoch))

    fit(spec, storage, settings["prepared"], checkpoints, report, device)


def checkpoints_of(folder: str, number: int) -> str:
    """Where a trial's checkpoints lie."""
    return f"{folder}/checkpoints/{number:06d}"


def _forget_after(checkpoints: Checkpoints, step: int) -> None:
    """Remove checkpoints of epochs that nobody was told of, so that they are trained, and told of, again."""

    def forget() -> None:
        for late in checkpoints.steps():
            if late > step:
                checkpoints.storage.remove(checkpoints.at(late))

    done_by_first(forget)


def _point(epoch: EpochReport) -> Point:
    usage = epoch.usage
    taken = {"step_s": usage.step_s or 0.0, "peak_bytes": float(max(usage.peak_bytes))} if usage else {}
    return {**epoch.metrics, "num_epochs": epoch.epoch, "step": epoch.step, "train_loss": epoch.loss, **taken}


def _result(point: Point, metric: str) -> dict[str, Any]:
    return {"point": point, metric: point[metric], "num_epochs": point["num_epochs"]}
