"""What a trial over a space trains, and on which workers: the same `fit` as train, on a reservation of its own."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.tune
import torch
from ray.tune import Callback, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

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
from jobs.search.space import Values
from jobs.search.study import NUMBER
from jobs.search.trial import Point, Trial, why_not_tried
from jobs.spec import RingSpec
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

    def checkpoints(self, trial: Trial) -> Checkpoints:
        """Of a trial."""
        return checkpoints_of(self.storage, self.folder, trial)


def checkpoints_of(storage: Storage, folder: str, trial: Trial) -> Checkpoints:
    """The checkpoints of a trial in the folder of a search; a member that takes over another's weights has new ones."""
    since = f"-{trial.took_over}" if trial.took_over else ""
    return Checkpoints(storage, f"{folder}/checkpoints/{trial.number:06d}{since}")


def book_of(storage: Storage, folder: str) -> Book[Trial]:
    """The book of the search in a folder."""
    return Book(storage, f"{folder}/trials", Trial)


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
    trainable = ray.tune.with_parameters(run_trial, settings=settings, workers_of=search.workers_of, begun=begun)
    scratch = f"{search.folder}/tune"
    search.storage.remove(scratch)
    all_alone = all(search.workers_of(number).layout.num_workers == 1 for number in range(spec.tune.num_trials))
    tuner = Tuner(
        ray.tune.with_resources(trainable, partial(_resources, workers_of=search.workers_of)),
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=num_left,
            max_concurrent_trials=spec.tune.max_concurrent,
            reuse_actors=all_alone,  # one whose workers were training when it was stopped cannot be used again
        ),
        run_config=RunConfig(
            name="search",
            storage_path=search.storage.path(scratch),
            storage_filesystem=search.storage.filesystem,
            callbacks=[watch],
            verbose=0,
        ),
    )
    with applied(TUNE_ENVIRONMENT):
        tuner.fit()


def config_of(search: Search, number: int, values: Values) -> dict[str, Any]:
    """What Ray Tune is told of a trial: its number and values, what is foreseen of it, and why it cannot fit, if so."""
    return {NUMBER: number, **_outlook(search, number, values), **values}


def _outlook(search: Search, number: int, values: Values) -> dict[str, Any]:
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

    A member of a population has the schedule of the run that goes on with it, is stopped by others alone, and keeps
    the checkpoint that its generation begins with, whatever comes in between.

    Raises:
        SpecError: they do not go together.
    """
    train, tune = spec.train, spec.tune
    if tune.is_population:
        how = {
            "train.early_stopping.patience": train.num_epochs,
            "train.checkpoint_every_steps": None,
            "train.keep_checkpoints": tune.perturb_every + 1,
        }
    else:
        how = {"train.num_epochs": tune.num_epochs}
    return with_values(spec.model_copy(update={"layout": layout}), {**values, **how})


def values_in(config: dict[str, Any]) -> Values:
    """The values in a trial's config."""
    return {key: value for key, value in config.items() if key not in (NUMBER, NOT_TRIED, BYTES, STEP_S)}


def _resources(config: dict[str, Any], workers_of: Callable[[int], Workers]) -> PlacementGroupFactory:
    """What Tune reserves for a trial; nothing for one that is left out."""
    if NOT_TRIED in config:
        return PlacementGroupFactory([{"CPU": 0.001}])  # Ray takes no request for nothing
    workers = workers_of(config[NUMBER])
    return trial_resources(workers.layout, workers.demand)


def run_trial(
    config: dict[str, Any],
    settings: dict[str, Any],
    workers_of: Callable[[int], Workers],
    begun: dict[int, Trial],
) -> None:
    """What Ray Tune calls for a trial: on one worker, which is this process, or on several in the trial's reservation.

    Args:
        begun: what is known of trials that have begun before.
    """
    storage = Storage(settings["storage"])
    trial = begun.get(config[NUMBER]) or Trial(config[NUMBER], {}, {})
    known = book_of(storage, settings["folder"]).read().values()
    if NOT_TRIED in config or (not trial.curve and why_not_tried(config.get(BYTES), [*known])):
        return  # without a result; `TrialWatch` sees why
    workers = workers_of(trial.number)
    given: dict[str, Any] = {**settings, "config": config, "layout": dump(workers.layout), "trial": trial}
    if workers.layout.num_workers == 1:
        _fit(given, ray.tune.report, torch.device(workers.device))
        return
    spec = parse(RingSpec, settings["spec"], "the driver's spec")
    run_on_workers(
        workers,
        TrialTrainer,
        run_gang_worker,
        {**given, "device": workers.device},
        name="trial",
        scratch=str(Path.cwd()),  # of the trial's own: Tune starts it in a folder that goes with Ray's session
        train=spec.train.model_copy(update={"max_failures": 0}),
        callbacks=[TuneReportCallback()],
    )


def run_gang_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls on every worker of a trial."""
    _fit(settings, ray.train.report, device_here(settings["device"]))


def _fit(settings: dict[str, Any], tell: Callable[[dict[str, Any]], None], device: torch.device) -> None:
    """Train from where the trial stands.

    Epochs that are known are told once more where a scheduler has to hear of them: one that compares all at an end,
    as `last_epoch` says, does not.
    """
    spec = parse(RingSpec, settings["spec"], "the driver's spec")
    layout = parse(Layout, settings["layout"], "the driver's layout")
    spec = trial_spec(spec, values_in(settings["config"]), layout)
    storage, metric, last_epoch = Storage(settings["storage"]), settings["metric"], settings["last_epoch"]
    trial: Trial = settings["trial"]
    checkpoints = checkpoints_of(storage, settings["folder"], trial)
    for point in trial.curve if last_epoch is None else ():
        tell(_result(point, metric))
    _forget_after(checkpoints, trial.step)

    def report(epoch: EpochReport) -> None:
        if math.isfinite(epoch.loss):  # alike on every worker; else the weights diverged, and this epoch is no result
            tell(_result(_point(epoch), metric))

    fit(spec, storage, settings["prepared"], checkpoints, report, device, last_epoch=last_epoch)


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
