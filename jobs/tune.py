"""tune: a small search over the training strategy, with Ray Tune; writes a plan.

    python -m jobs.tune jobs/specs/recommender.yaml

Trials are drawn by Optuna's TPE (Bergstra et al., 2011) and the weak ones stopped early by ASHA (Li et al., 2020).
Each runs the same `fit` as train, on one worker or on the spec's layout: the loss of a step does not depend on it.
"""

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import ray.tune
import torch
from optuna.samplers import TPESampler
from ray.tune import Callback, ResultGrid, RunConfig, TuneConfig, Tuner
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from cluster.command import run as run_command
from cluster.errors import SpecError
from cluster.lifecycle import connected
from cluster.reservation import TrialTrainer, check_room, trial_resources
from cluster.spec import dump, parse, with_values
from cluster.storage import Storage
from jobs.fit import EpochReport, check, fit
from jobs.lineage import Made, prepare_inputs, prepared_folder, tune_inputs, why_new
from jobs.prepared import open_split
from jobs.row_stream import check_window
from jobs.search.plan import Plan, Trial, plan_folder, read_plan, show_values, write_plan
from jobs.search.space import sample
from jobs.spec import RangeSpec, RingSpec
from jobs.stage import main as stage_main
from jobs.start import check_start, settled
from jobs.teacher import check_teacher
from jobs.trainable import check_trainable
from jobs.worker_group import Workers, num_gpus, run_on_workers, workers_of

EPOCH = "training_iteration"
SEARCHED = ("workload.", "train.")
NOT_SEARCHED = {
    "train.num_epochs": "tune.num_epochs says how long a trial is",
    "train.early_stopping": "it says which trial is the best",
}


def run(spec: RingSpec, storage: Storage) -> Made:
    """Search and write a plan, unless that has been done for the same rows, spec and code.

    Raises:
        DataError: nothing is prepared for this spec.
        SpecError: a value of the space does not fit the spec.
    """
    if spec.tune.num_trials == 0:
        return Made("tune", "", False, "tune.num_trials is 0")
    check(spec)
    _check_space(spec, storage)
    inputs = tune_inputs(spec, storage)
    prepared = prepared_folder(spec, storage)
    check_teacher(spec, storage, prepared)
    check_start(spec, storage, prepared)
    check_trainable(spec, storage, prepared)
    folder = plan_folder(spec.name, inputs.key)
    found = read_plan(storage, spec.name, inputs.key)
    if found:
        return Made("tune", folder, False, "unchanged", found.line())
    why = why_new(storage, f"plans/{spec.name}", inputs)
    check_window(open_split(storage, prepared, "train"), spec.train)
    storage.check_shared()
    with connected():
        layout = spec.layout if spec.tune.workers == "layout" else spec.layout.alone()
        workers = workers_of(spec, layout, num_gpus())
        wait = check_room(workers.layout, workers.demand)
        if wait:
            print(f"tune: waiting; {wait}", flush=True)
        plan = _search(workers, settled(spec, storage), storage, prepared, f"plans/{spec.name}/.{inputs.key}.search")
    write_plan(storage, folder, plan, {**inputs.as_manifest(), "created_at": datetime.now(UTC).isoformat()})
    return Made("tune", folder, True, why, plan.line())


def plan(spec: RingSpec, storage: Storage) -> str:
    """What `run` would do."""
    if spec.tune.num_trials == 0:
        return "tune: skip, tune.num_trials is 0"
    check(spec)
    _check_space(spec, storage)
    inputs = tune_inputs(spec, storage)
    found = read_plan(storage, spec.name, inputs.key)
    if found:
        return f"tune: skip, {plan_folder(spec.name, inputs.key)} is there: {found.line()}"
    on = "" if spec.tune.workers == "one" else f" on {spec.layout.num_workers} workers ({spec.layout.line()}),"
    space = [f"    {key}: {_show(values)}" for key, values in spec.tune.space.items()]
    return "\n".join(
        [
            f"tune: run ({why_new(storage, f'plans/{spec.name}', inputs)})",
            f"  {spec.tune.num_trials} trials of at most {spec.tune.num_epochs} epochs,{on} {spec.tune.max_concurrent} "
            f"at once, for the best {spec.train.early_stopping.metric}, over",
            *space,
        ]
    )


def _show(values: Any) -> str:
    if isinstance(values, RangeSpec):
        return f"{values.low:g} to {values.high:g}{', in the logarithm' if values.log else ''}"
    return ", ".join(map(str, values))


def _check_space(spec: RingSpec, storage: Storage) -> None:
    """Raise SpecError unless the spec takes every value of the space, and all share the rows that are prepared."""
    if not spec.tune.space:
        raise SpecError("tune.space is empty but tune.num_trials is not 0; give keys to search, or tune.num_trials=0")
    for key, values in spec.tune.space.items():
        if not values:
            raise SpecError(f"tune.space.{key} lists no value; give one, or leave the key out")
        for value in (values.low, values.high) if isinstance(values, RangeSpec) else values:
            try:
                _check_value(spec, storage, key, value)
            except SpecError as error:
                raise SpecError(f"tune.space.{key}={value}: {error}") from None


def _check_value(spec: RingSpec, storage: Storage, key: str, value: Any) -> None:
    tried = with_values(spec, {key: value})
    check(tried)
    for prefix, reason in NOT_SEARCHED.items():
        if f"{key}.".startswith(f"{prefix}."):
            raise SpecError(f"{prefix} cannot be searched, {reason}")
    if not key.startswith(SEARCHED):
        raise SpecError(f"only keys of workload and train can be searched, '{key}' is neither")
    if key.startswith("workload.") and prepare_inputs(tried, storage).key != prepare_inputs(spec, storage).key:
        raise SpecError(f"another {key} needs other prepared rows, and all trials share them; set it in the spec")


def _search(workers: Workers, spec: RingSpec, storage: Storage, prepared: str, scratch: str) -> Plan:
    metric = spec.train.early_stopping.metric
    mode = spec.train.early_stopping.mode
    on_workers = spec.model_copy(update={"layout": workers.layout})
    settings = {"spec": dump(on_workers), "storage": storage.uri, "prepared": prepared}
    is_alone = workers.layout.num_workers == 1
    trial = ray.tune.with_parameters(run_trial if is_alone else run_gang_trial, settings=settings, workers=workers)
    storage.remove(scratch)
    tuner = Tuner(
        ray.tune.with_resources(trial, trial_resources(workers.layout, workers.demand)),
        tune_config=TuneConfig(
            metric=metric,
            mode=mode,
            search_alg=OptunaSearch(
                partial(sample, space=spec.tune.space), metric=metric, mode=mode, sampler=TPESampler(seed=spec.seed)
            ),
            scheduler=ASHAScheduler(time_attr=EPOCH, max_t=spec.tune.num_epochs, grace_period=1, reduction_factor=2),
            num_samples=spec.tune.num_trials,
            max_concurrent_trials=spec.tune.max_concurrent,
            reuse_actors=is_alone,  # one whose workers were training when it was stopped cannot be used again
        ),
        run_config=RunConfig(
            name="search",
            storage_path=storage.path(scratch),
            storage_filesystem=storage.filesystem,
            callbacks=[_Progress(spec.tune.num_trials, metric)],
            verbose=0,
        ),
    )
    try:
        return _plan(tuner.fit(), metric, mode)
    finally:
        storage.remove(scratch)


class _Progress(Callback):
    """A line a trial that came to its end."""

    def __init__(self, num_trials: int, metric: str):
        self._num_trials, self._metric = num_trials, metric
        self._num_done = 0
        self._started = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a trial comes to its end or is stopped."""
        result = trial.last_result
        if self._metric in result:
            self._print(trial, f"{self._metric} {result[self._metric]:.4f} after {result['num_epochs']} epochs")
        else:
            self._print(trial, "diverged")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a trial fails; it logs the reason itself."""
        self._print(trial, "failed")

    def _print(self, trial: Any, outcome: str) -> None:
        self._num_done += 1
        left_s = (time.monotonic() - self._started) / self._num_done * (self._num_trials - self._num_done)
        number = f"trial {self._num_done}/{self._num_trials}"
        print(f"{number}  {show_values(trial.config)}  {outcome}  {left_s:.0f} s left", flush=True)


def run_trial(config: dict[str, Any], settings: dict[str, str], workers: Workers) -> None:
    """What Ray Tune calls for a trial on one worker, which is this process."""

    def report(epoch: EpochReport) -> None:
        if math.isfinite(epoch.loss):  # else the weights diverged: `fit` ends here, and this epoch is no result
            ray.tune.report(_result(epoch))

    _fit(config, settings, report, torch.device("cuda" if workers.on_gpu else "cpu"))


def run_gang_trial(config: dict[str, Any], settings: dict[str, str], workers: Workers) -> None:
    """What Ray Tune calls for a trial on several workers, which stand in the reservation of the trial."""
    spec = parse(RingSpec, settings["spec"], "the driver's spec")
    run_on_workers(
        workers,
        TrialTrainer,
        run_gang_worker,
        {**settings, "config": config},
        name="trial",
        scratch=str(Path.cwd()),  # of the trial's own: Tune starts it in a folder that goes with Ray's session
        train=spec.train.model_copy(update={"max_failures": 0}),
        callbacks=[TuneReportCallback()],
    )


def run_gang_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls on every worker of a trial."""

    def report(epoch: EpochReport) -> None:
        if math.isfinite(epoch.loss):  # alike on every worker
            ray.train.report(_result(epoch))

    _fit(settings["config"], settings, report, ray.train.torch.get_device())


def _fit(
    config: dict[str, Any], settings: dict[str, Any], report: Callable[[EpochReport], None], device: torch.device
) -> None:
    spec = parse(RingSpec, settings["spec"], "the driver's spec")
    spec = with_values(spec, {**config, "train.num_epochs": spec.tune.num_epochs})
    fit(spec, Storage(settings["storage"]), settings["prepared"], None, report, device)


def _result(epoch: EpochReport) -> dict[str, float]:
    return {**epoch.metrics, "num_epochs": epoch.epoch}


def _plan(results: ResultGrid, metric: str, mode: str) -> Plan:
    """The plan of the best epoch of the best trial; what failed or diverged at once is kept as failed.

    Raises:
        SpecError: every trial diverged.
        RuntimeError: none came to a result; the first one's error is its cause.
    """
    trials = tuple(_trial(results[i], metric, mode) for i in range(len(results)))
    values = [trial.best for trial in trials if trial.best is not None]
    if not values and results.errors:
        raise RuntimeError(f"all {len(trials)} trials failed") from results.errors[0]
    if not values:
        raise SpecError(
            f"training diverged in all {len(trials)} trials: the loss is not finite. "
            "Search lower values of train.optimizer.learning_rate in tune.space"
        )
    best = max(values) if mode == "max" else min(values)
    winner = next(trial for trial in trials if trial.best == best)
    return Plan(winner.values, metric, best, trials)


def _trial(result: Any, metric: str, mode: str) -> Trial:
    epochs = result.metrics_dataframe
    failed = Trial(result.config or {}, None, 0, 0.0)
    if result.error or epochs is None or epochs.empty:
        return failed
    best = float(epochs[metric].max() if mode == "max" else epochs[metric].min())
    if not math.isfinite(best):
        return failed
    return Trial(result.config, best, int(epochs["num_epochs"].max()), float(epochs["time_total_s"].max()))


def main(arguments: Sequence[str]) -> int:
    """Run the stage from the command line."""
    return stage_main(__doc__ or "", run, plan, arguments)


if __name__ == "__main__":
    run_command(main)
