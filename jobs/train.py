"""train: prepared rows and a plan -> a published version, with Ray Train.

    python -m jobs.train jobs/specs/recommender.yaml

Writes checkpoints/<name>/<key>/ while it trains and models/<name>/<version>/ at its end. Killed at any moment, the
next run goes on from the last checkpoint.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
import ray.train.torch

from cluster.command import run as run_command
from cluster.errors import DataError, SpecError, UserError
from cluster.layout import Layout
from cluster.lifecycle import connected
from cluster.registry import CHAMPION, Registry
from cluster.reservation import PlacedTrainer, check_room, context, inventory
from cluster.scaling import STOPPED, ElasticTrainer, is_to_stop
from cluster.spec import dump, parse
from cluster.storage import Storage
from jobs import version
from jobs.anomalies import OF_FALLING_LOSS, Watch
from jobs.elastic import elastic_layouts, elastic_lines, layouts_that_fit
from jobs.error_record import error_so_far
from jobs.event_files import EventFiles
from jobs.fit import EpochReport, check, fit
from jobs.known_devices import device_foreseen
from jobs.layout_forecast import foreseen_line
from jobs.lineage import Inputs, Made, made_of, prepared_folder, train_inputs, tune_inputs, why_new
from jobs.mlflow_run import MlflowRun, mlflow_run
from jobs.parallel.checkpoint import Checkpoints
from jobs.parallel.collectives import all_of
from jobs.prepared import open_split, read_profile, read_split, read_train, read_transform
from jobs.report.run_page import write_run_page
from jobs.row_stream import RowStream, check_window, open_stream
from jobs.run_log import RunLog, Start
from jobs.search.plan import Plan, as_json, read_plan
from jobs.spec import RingSpec, TrainSpec
from jobs.stage import main as stage_main
from jobs.start import check_start, settled, start_of
from jobs.teacher import check_teacher
from jobs.trainable import check_trainable, trained_model
from jobs.worker_group import num_gpus, run_on_workers, workers_of
from jobs.workloads import WORKLOADS


def run(spec: RingSpec, storage: Storage) -> Made:
    """Train and publish a version, unless one was made of the same rows, spec, plan and code.

    Raises:
        DataError: nothing is prepared for this spec.
        SpecError: the layout, its bounds, batch or metric does not fit the workload.
    """
    found = _plan_of(spec, storage)
    spec, plan_note = planned(spec, found)
    check(spec)
    layouts_of(spec)
    registry = Registry(storage, spec.name)
    inputs = train_inputs(spec, storage, found.weights_key if found else "")
    prepared = prepared_folder(spec, storage)
    check_teacher(spec, storage, prepared)
    note = check_start(spec, storage, prepared)
    check_trainable(spec, storage, prepared)
    made = made_of(registry, inputs.key)
    if made:
        _promote(registry, spec, made, is_new=False)
        return Made("train", f"models/{spec.name}/{made}", False, "unchanged", plan_note)
    why = why_new(storage, f"models/{spec.name}", inputs)
    spec = settled(spec, storage)
    checkpoints = Checkpoints(storage, f"checkpoints/{spec.name}/{inputs.key}")
    if found:
        _begin_with(found, checkpoints)
    with mlflow_run(spec, inputs.key) as mlflow:
        if not _is_finished(checkpoints):
            if note:
                print(f"train: mind: {note}", flush=True)
            _train(spec, storage, prepared, checkpoints, mlflow)
        name, metrics, baselines = _publish(spec, storage, prepared, checkpoints, inputs, found)
        if mlflow:
            mlflow.add_version(name, metrics)
    promoted = _promote(registry, spec, name, is_new=True)
    return Made(
        "train",
        f"models/{spec.name}/{name}",
        True,
        why,
        "\n".join([plan_note, version.table_of(metrics, baselines), promoted]),
    )


def plan(spec: RingSpec, storage: Storage) -> str:
    """What `run` would do."""
    found = _plan_of(spec, storage)
    spec, plan_note = planned(spec, found)
    check(spec)
    layouts_of(spec)
    inputs = train_inputs(spec, storage, found.weights_key if found else "")
    made = made_of(Registry(storage, spec.name), inputs.key)
    if made:
        return f"train: skip, models/{spec.name}/{made} was made of the same rows, spec and code"
    steps = Checkpoints(storage, f"checkpoints/{spec.name}/{inputs.key}").steps()
    begins = f"from the checkpoint of step {steps[-1]}" if steps else _beginning(found)
    start = start_of(spec, storage)
    train, optimizer = spec.train, spec.train.optimizer
    return "\n".join(
        [
            f"train: run {begins} ({why_new(storage, f'models/{spec.name}', inputs)})",
            f"  {plan_note}",
            *([f"  start with {start.line()}"] if start else []),
            *_part_line(train),
            *(elastic_lines(spec, storage) if train.elastic else []),
            *_foreseen_line(spec, storage),
            f"  {spec.layout.num_workers} workers ({spec.layout.line()}), "
            f"global batch {train.batch_size}, at most {train.num_epochs} epochs",
            f"  {optimizer.name}, learning rate {optimizer.learning_rate:g} ({train.schedule}), "
            f"weight decay {optimizer.weight_decay:g}",
            f"  stop {train.early_stopping.patience} epochs after the best {train.early_stopping.metric}",
            *([f"  tell MLflow at {train.mlflow}"] if train.mlflow else []),
            f"  write checkpoints/{spec.name}/{inputs.key}, models/{spec.name}/",
        ]
    )


def _part_line(train: TrainSpec) -> list[str]:
    """Which part of the weights is trained, where it is not all of them."""
    if train.lora:
        return [f"  learn a change of rank {train.lora.rank} beside {', '.join(train.lora.targets)}"]
    return [f"  leave as it is {', '.join(train.freeze)}"] if train.freeze else []


def layouts_of(spec: RingSpec) -> list[Layout]:
    """The layouts that the run may have, the best one first: the spec's own, unless the run is elastic."""
    return elastic_layouts(spec)[0] if spec.train.elastic else [spec.layout]


def _foreseen_line(spec: RingSpec, storage: Storage) -> list[str]:
    """What the layout takes of a device of which something is known without looking at the cluster."""
    known = device_foreseen(spec, storage)
    if known is None:
        return []
    name, device = known
    seen = error_so_far(storage, device)
    return [f"  {foreseen_line(spec, storage, device, name)}", *([f"  so far on {name}: {seen}"] if seen else [])]


def planned(spec: RingSpec, found: Plan | None) -> tuple[RingSpec, str]:
    """The spec with the values of the plan that was searched for it, and a line that says so."""
    if not spec.tune.is_on:
        return spec, "plan: none, tune.num_trials is 0"
    if found is None:
        return spec, "plan: none yet (python -m jobs.tune SPEC makes one); training with the spec as it is"
    return found.put_into(spec), f"plan: {found.line()}"


def _beginning(found: Plan | None) -> str:
    if found and found.checkpoint:
        return f"from the weights that the search has trained for {found.num_epochs} epochs, {found.checkpoint}"
    return "from the start"


def _begin_with(found: Plan, checkpoints: Checkpoints) -> None:
    """Let a run that has not begun go on from the weights that the search has trained, where there are any."""
    if not found.checkpoint:
        return
    trained = Checkpoints(checkpoints.storage, found.checkpoint)
    steps, own = trained.steps(), checkpoints.steps()
    if not steps and own:
        return
    if not steps:
        raise DataError(
            f"the weights of the plan, {found.checkpoint}, are gone from '{checkpoints.storage.uri}'; remove the plan "
            "too, so that it is searched again, or train without: tune.num_trials=0"
        )
    if steps[-1] > max(own, default=0):
        trained.hand_over(steps[-1], checkpoints)


def _plan_of(spec: RingSpec, storage: Storage) -> Plan | None:
    return read_plan(storage, spec.name, tune_inputs(spec, storage).key) if spec.tune.is_on else None


def train_on_worker(settings: dict[str, Any]) -> str | None:
    """What Ray Train calls on every worker; returns `STOPPED` where others are to go on."""
    storage = Storage(settings["storage"])
    checkpoints = Checkpoints(storage, settings["checkpoints"])
    told = context()
    is_first = told.world_rank == 0
    spec = parse(RingSpec, settings["spec"], "the driver's spec").model_copy(update={"layout": told.layout})
    log = RunLog(storage, checkpoints.folder)
    workload = WORKLOADS[spec.workload.kind]
    untold = OF_FALLING_LOSS if workload.partition(spec.workload).turns else ()
    watch = Watch(spec.train.early_stopping, workload.lower_is_better, untold)
    mlflow: MlflowRun | None = settings["mlflow"]
    nodes = tuple(all_of(str(ray.get_runtime_context().get_node_id())))
    if is_first:
        log.add_start(Start(max(checkpoints.steps(), default=0), told.layout, nodes, told.why))
    with EventFiles(storage, f"{settings['checkpoints']}/tensorboard", enabled=is_first) as events:

        def report(epoch: EpochReport) -> None:
            if is_first:
                print(epoch.line(), flush=True)
                found = watch.see(epoch)
                for anomaly in found:
                    print(anomaly.line(), flush=True)
                log.add(epoch, found)
                events.add(epoch.scalars(), epoch.step)
                if mlflow:
                    mlflow.add(epoch.scalars(), epoch.step)
            ray.train.report({"step": epoch.step, **epoch.metrics})

        stream: RowStream = settings["rows"]
        has_ended = fit(
            spec,
            storage,
            settings["prepared"],
            checkpoints,
            report,
            ray.train.torch.get_device(),
            stream.rows,
            is_to_stop if spec.train.elastic else None,
        )
    return None if has_ended else STOPPED


def _train(spec: RingSpec, storage: Storage, prepared: str, checkpoints: Checkpoints, mlflow: MlflowRun | None) -> None:
    """Train on workers; how it went is in the run log and on its page, however it ends."""
    split = open_split(storage, prepared, "train", WORKLOADS[spec.workload.kind].ties)
    check_window(split, spec.train)
    storage.check_shared()
    steps = checkpoints.steps()
    settings = {
        "spec": dump(spec),
        "storage": storage.uri,
        "prepared": prepared,
        "checkpoints": checkpoints.folder,
        "rows": open_stream(split, spec.seed, spec.train, steps[-1] if steps else 0),
        "mlflow": mlflow,
    }
    log = RunLog(storage, checkpoints.folder)
    log.set_failure("")
    try:
        with connected():
            _start_workers(spec, storage, settings)
    except UserError as error:
        log.set_failure(str(error))
        raise
    finally:
        print(f"train: how it went: {write_run_page(spec, storage, checkpoints.folder)}", flush=True)


def _start_workers(spec: RingSpec, storage: Storage, settings: dict[str, Any]) -> None:
    layouts = layouts_of(spec)
    workers = workers_of(spec, layouts[-1], num_gpus())
    if spec.train.elastic:
        layouts = layouts_that_fit(spec, storage, workers, inventory())
    best, *fallbacks = layouts
    wait = check_room(layouts[-1], workers.demand)
    if wait:
        print(f"train: waiting; {wait}", flush=True)
    elastic = spec.train.elastic
    with TemporaryDirectory() as scratch:
        run_on_workers(
            replace(workers, layout=best),
            partial(ElasticTrainer, fallbacks, elastic.look_every_s) if elastic else PlacedTrainer,
            train_on_worker,
            settings,
            name=f"train-{spec.name}",
            scratch=scratch,
            train=spec.train,
        )


def _is_finished(checkpoints: Checkpoints) -> bool:
    steps = checkpoints.steps()
    return bool(steps) and checkpoints.progress(steps[-1]).stopped


def _best_step(spec: RingSpec, checkpoints: Checkpoints) -> int:
    end = checkpoints.progress(checkpoints.steps()[-1])
    if end.best_value is None:
        raise SpecError(
            f"training diverged before step {end.step}: the loss is not finite. "
            f"Give a lower train.optimizer.learning_rate than {spec.train.optimizer.learning_rate:g}"
        )
    return end.best_step


def _publish(
    spec: RingSpec,
    storage: Storage,
    prepared: str,
    checkpoints: Checkpoints,
    inputs: Inputs,
    found: Plan | None,
) -> tuple[str, version.Metrics, dict[str, version.Metrics]]:
    """Publish the best checkpoint as a version made of `inputs`; returns its name, its metrics and its baselines'."""
    best_step = _best_step(spec, checkpoints)
    workload = WORKLOADS[spec.workload.kind]
    transform = read_transform(storage, prepared)
    model = trained_model(spec, transform, checkpoints, best_step)
    train = read_train(storage, prepared, workload.ties)
    test = read_split(storage, prepared, "test", workload.ties)
    with TemporaryDirectory() as scratch:
        profile = read_profile(storage, prepared)
        metrics, baselines = version.write(Path(scratch), spec, transform, model, train, test, profile)
        if found:
            version.write_plan(Path(scratch), as_json(found))
        run_of = {"run": checkpoints.folder, "step": best_step, "prepared": prepared}
        name = Registry(storage, spec.name).publish(Path(scratch), {**inputs.as_manifest(), **run_of})
    return name, metrics, baselines


def _promote(registry: Registry, spec: RingSpec, name: str, is_new: bool) -> str:
    """Make a version the champion where the spec says so; one that was skipped only where there is none yet."""
    has_champion = CHAMPION in registry.aliases()
    if spec.serving.promote == "never" or (has_champion and not is_new):
        return "champion: as it was"
    with registry.open(name) as folder:
        metrics, baselines = version.read_scores(folder)
    behind = version.not_better(metrics, baselines, WORKLOADS[spec.workload.kind].lower_is_better)
    if behind:
        return f"champion: as it was; the new version does not beat {'; '.join(behind)}"
    registry.promote(name)
    return f"champion: {name}"


def main(arguments: Sequence[str]) -> int:
    """Run the stage from the command line."""
    return stage_main(__doc__ or "", run, plan, arguments)


if __name__ == "__main__":
    run_command(main)
