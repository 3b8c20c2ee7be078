"""fit: one worker's training loop; train runs it on every worker, tune in every trial."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from cluster.errors import SpecError, nearest
from cluster.spec import dump
from cluster.storage import Storage
from jobs.features.transform import Transform
from jobs.flops import flops_a_row
from jobs.moving_average import averages_as_weights
from jobs.optimization import learning_rate
from jobs.parallel import check as check_layout
from jobs.parallel.checkpoint import Checkpoints, Origin, Progress
from jobs.parallel.checkpoint_writer import CheckpointWriter
from jobs.parallel.collectives import from_first, rank
from jobs.parallel.feed import Feed, Rows, Source, in_order
from jobs.parallel.parted import Parted, part
from jobs.prepared import open_split, read_split, read_transform
from jobs.spec import EarlyStoppingSpec, RingSpec
from jobs.start import put_start
from jobs.stop_sign import StopSign
from jobs.teacher import taught
from jobs.trainable import check_sections, freeze, make_trainable
from jobs.training_step import TrainingStep
from jobs.usage import Meter, Usage
from jobs.workloads import WORKLOADS
from jobs.workloads.chain import Batch

CPU = torch.device("cpu")


@dataclass(frozen=True)
class EpochReport:
    """What one epoch came to."""

    epoch: int
    """From 1 on."""
    num_epochs: int
    step: int
    num_steps: int
    loss: float
    """Mean over the epoch's training rows."""
    gradient_norm: float
    """Of the last step."""
    learning_rate: float
    rows_per_s: float
    stall: float
    """Share of the epoch's training time in which this worker waited for rows."""
    left_s: float
    """Until the last epoch, at this epoch's rate."""
    metrics: dict[str, float]
    """On the validation rows."""
    is_best: bool
    step_losses: tuple[float, ...] = ()
    """Of the steps up to `step`, each the mean over its rows: of those that this process has made in this epoch."""
    usage: Usage | None = None

    def line(self) -> str:
        """One line of progress."""
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        mark = " *" if self.is_best else ""
        usage = f"  {self.usage.line()}" if self.usage else ""
        return (
            f"epoch {self.epoch}/{self.num_epochs}  step {self.step}/{self.num_steps}  loss {self.loss:.4f}  "
            f"{metrics}  {self.rows_per_s:,.0f} rows/s  stall {self.stall:.1%}{usage}  {self.left_s:.0f} s left{mark}"
        )

    def scalars(self) -> dict[str, float]:
        """Everything as numbers by name, for a searcher and for TensorBoard."""
        return {
            **{f"valid/{name}": value for name, value in self.metrics.items()},
            "train/loss": self.loss,
            "train/gradient_norm": self.gradient_norm,
            "train/learning_rate": self.learning_rate,
            "train/rows_per_s": self.rows_per_s,
            "train/stall": self.stall,
            **(self.usage.scalars() if self.usage else {}),
        }


@dataclass(frozen=True)
class Training:
    """What takes the steps of a spec, on one worker."""

    spec: RingSpec
    transform: Transform
    feed: Feed
    parted: Parted
    step: TrainingStep

    @property
    def num_steps(self) -> int:
        """Of all epochs."""
        return self.feed.steps_an_epoch * self.spec.train.num_epochs


@dataclass(frozen=True)
class _Watched(Training):
    """The same with what says how it goes."""

    valid: pa.Table | None
    """The validation rows, on the first worker."""
    meter: Meter
    stop_sign: StopSign | None
    """None where nothing stops training midway."""


def check(spec: RingSpec) -> None:
    """Raise SpecError for what can be known before any worker starts."""
    workload = WORKLOADS[spec.workload.kind]
    check_layout(spec.layout, workload.partition(spec.workload), spec.workload.kind)
    spec.layout.check_batch(spec.train.batch_size)
    watched = spec.train.early_stopping.metric
    if watched not in workload.metrics:
        raise SpecError(
            f"train.early_stopping.metric: '{watched}' is no metric of this workload. "
            f"{nearest(watched, workload.metrics)}"
        )
    _check_distillation(spec, workload.apart is not None)
    check_sections(spec)


def _check_distillation(spec: RingSpec, is_known: bool) -> None:
    if spec.train.distill is None:
        return
    if not is_known:
        raise SpecError(
            f"train.distill: a {spec.workload.kind} model cannot learn from another one's answers; leave it out"
        )
    if spec.layout.context > 1:
        raise SpecError(
            f"layout.context={spec.layout.context} splits each row over workers, but the teacher of train.distill "
            "reads whole rows; give layout.context=1"
        )


def fit(
    spec: RingSpec,
    storage: Storage,
    prepared: str,
    checkpoints: Checkpoints | None,
    report: Callable[[EpochReport], bool | None],
    device: torch.device = CPU,
    rows: Rows | None = None,
    is_to_stop: Callable[[], bool] | None = None,
    last_epoch: int | None = None,
) -> bool:
    """Train to the last epoch or until the watched metric no longer gets better.

    Goes on from the newest of `checkpoints`, whatever layout it was saved on, to the same result as a run that was
    never disturbed. Every worker of the process group calls it; `report` is called on each after every epoch, and
    training leaves off there where it returns False, on all of them.
    Without `rows`, the training rows in the order of their visit, each worker reads them for itself.

    Args:
        is_to_stop: asked about once a second, on the first worker, whether to leave off.
        last_epoch: after which to leave off, where that is before `train.num_epochs`, by which the schedule goes.

    Returns:
        Whether training came to its end; where it left off, the checkpoint of its last step is written.
    """
    newest = _newest(checkpoints)
    begun = set_up(spec, storage, prepared, device, rows, newest is not None)
    training = _watched(begun, storage, prepared, is_to_stop)
    progress = _resume(training, checkpoints, newest) if checkpoints and newest is not None else Progress()
    last_step = min(last_epoch or spec.train.num_epochs, spec.train.num_epochs) * training.feed.steps_an_epoch
    with _open_writer(spec, checkpoints) as writer:
        while not progress.stopped and progress.step < last_step:
            progress, epoch_report = _epoch(training, progress, writer)
            _save(training, progress, writer)
            if epoch_report is None:
                return False
            if report(epoch_report) is False:
                return progress.stopped
    return progress.stopped


def set_up(
    spec: RingSpec,
    storage: Storage,
    prepared: str,
    device: torch.device,
    rows: Rows | None = None,
    goes_on: bool = False,
) -> Training:
    """This worker's part of the model and of the rows; every worker of the process group calls it.

    Args:
        rows: see `fit`.
        goes_on: from a checkpoint, so what `train.start` names is not read.
    """
    workload = WORKLOADS[spec.workload.kind]
    transform = read_transform(storage, prepared)
    partition = workload.partition(spec.workload)
    torch.manual_seed(spec.seed)
    model = workload.build(spec.workload, transform).train()
    if not goes_on:
        put_start(model, spec, storage, transform)
    make_trainable(model, spec.train)

    def losses(outputs: Any, batch: Batch) -> Tensor:
        return workload.loss(spec.workload, outputs, batch)

    parted = part(model, spec.layout, partition, taught(losses, spec, storage, device), device)
    freeze(parted.model, spec.train)
    source = Source(
        int(storage.manifest(prepared)["num_rows"]["train"]),
        rows or in_order(open_split(storage, prepared, "train", workload.ties), spec.seed, spec.train.shuffle_rows),
        workload.tensors,
        lambda generator: workload.draw(spec.workload, transform, generator),
        partition.sequence,
        lambda batch, other: workload.augment(spec.workload, batch, other),
    )
    feed = Feed(source, spec.layout, rank(), spec.seed, spec.train.batch_size, device)
    step = TrainingStep(spec.train, parted, feed.steps_an_epoch * spec.train.num_epochs, partition.turns)
    return Training(spec, transform, feed, parted, step)


def _watched(training: Training, storage: Storage, prepared: str, is_to_stop: Callable[[], bool] | None) -> _Watched:
    spec = training.spec
    valid = read_split(storage, prepared, "valid", WORKLOADS[spec.workload.kind].ties) if rank() == 0 else None
    batch = None if valid is None else valid.slice(0, spec.train.batch_size)
    flops = None if batch is None else flops_a_row(spec.workload, training.transform, batch)
    stop_sign = StopSign(is_to_stop) if is_to_stop else None
    return _Watched(**vars(training), valid=valid, meter=Meter(training.parted, flops), stop_sign=stop_sign)


def _newest(checkpoints: Checkpoints | None) -> int | None:
    """The step of the newest checkpoint, the same on every worker; what a writer that died has left is removed."""
    if checkpoints and rank() == 0:
        checkpoints.storage.discard_staged(checkpoints.folder)
    # The first worker looks: a listing of another moment could show the others another step.
    steps = from_first(checkpoints.steps() if checkpoints else [])
    return steps[-1] if steps else None


def _resume(training: Training, checkpoints: Checkpoints, step: int) -> Progress:
    if rank() == 0:
        print(f"going on from the checkpoint of step {step}", flush=True)
    progress = checkpoints.load(step, training.parted.model, training.step.optimizer)
    if progress.loss_scale is not None:
        training.step.loss_scale = progress.loss_scale
    return progress


def _open_writer(spec: RingSpec, checkpoints: Checkpoints | None) -> AbstractContextManager[CheckpointWriter | None]:
    if checkpoints is None:
        return nullcontext()
    return CheckpointWriter(checkpoints, spec.train.keep_checkpoints, Origin(dump(spec), spec.layout.line()))


def _save(training: Training, progress: Progress, writer: CheckpointWriter | None) -> None:
    if writer:
        scale = training.step.loss_scale if training.spec.layout.precision == "fp16" else None
        writer.save(training.parted.model, training.step.optimizer, replace(progress, loss_scale=scale))


def _epoch(
    training: _Watched, progress: Progress, writer: CheckpointWriter | None
) -> tuple[Progress, EpochReport | None]:
    """Train to the end of the epoch that `progress` stands in, then validate; no report where it leaves off before."""
    train, steps_an_epoch = training.spec.train, training.feed.steps_an_epoch
    epoch, first = divmod(progress.step, steps_an_epoch)
    started = time.monotonic()
    summed_loss = torch.zeros((), device=training.parted.device)
    num_trained, waited_s = 0, 0.0
    each_loss: list[Tensor] = []
    training.parted.model.train()
    for rows in training.feed.epoch(epoch, first):
        is_last = progress.step + 1 == (epoch + 1) * steps_an_epoch
        take = partial(training.step, rows, progress.step, wants_norm=is_last)
        result = training.meter.take(rows, take)
        summed_loss += result.summed_loss
        each_loss.append(result.summed_loss / rows.num_rows)
        num_trained += rows.num_rows
        waited_s += rows.waited_s
        progress = replace(progress, step=progress.step + 1)
        stops = training.stop_sign is not None and not is_last and training.stop_sign.seen()
        is_due = train.checkpoint_every_steps and progress.step % train.checkpoint_every_steps == 0
        if stops or (is_due and not is_last):
            so_far = replace(progress, epoch_loss=progress.epoch_loss + float(training.parted.summed(summed_loss)))
            if stops:
                return so_far, None
            _save(training, so_far, writer)
    loss = (progress.epoch_loss + float(training.parted.summed(summed_loss))) / training.feed.num_rows
    step_losses = training.parted.summed(torch.stack(each_loss)).tolist()  # at once: a step waits for nothing
    trained_s = time.monotonic() - started
    usage = training.meter.usage(num_trained, trained_s)
    metrics = _validate(training)
    seconds = time.monotonic() - started
    value = metrics[train.early_stopping.metric] if math.isfinite(loss) else math.nan
    progress = _after_epoch(progress, value, train.early_stopping)
    progress = replace(progress, epoch_loss=0.0, stopped=progress.stopped or epoch + 1 == train.num_epochs)
    assert result.gradient_norm is not None
    return progress, EpochReport(
        epoch=epoch + 1,
        num_epochs=train.num_epochs,
        step=progress.step,
        num_steps=training.num_steps,
        loss=loss,
        gradient_norm=float(result.gradient_norm),
        learning_rate=learning_rate(train, progress.step - 1, training.num_steps),
        rows_per_s=num_trained / seconds,
        stall=waited_s / trained_s,
        left_s=(training.num_steps - progress.step) * seconds / (steps_an_epoch - first),
        metrics=metrics,
        is_best=progress.best_step == progress.step,
        step_losses=tuple(step_losses),
        usage=usage,
    )


def _validate(training: _Watched) -> dict[str, float]:
    """The metrics on the validation rows, measured by the first worker on the whole model, averaged where it is."""
    workload, spec = WORKLOADS[training.spec.workload.kind], training.spec.workload
    metrics: dict[str, float] = {}
    with averages_as_weights(training.step.optimizer):
        model = _whole_model(training)
        if model is not None:
            assert training.valid is not None
            metrics = workload.evaluate(spec, model.eval(), training.transform, training.valid)
    return from_first(metrics)


def _whole_model(training: Training) -> nn.Module | None:
    """The whole model in host memory on the first worker, None on the others: its own where that is whole."""
    layout, parted = training.spec.layout, training.parted
    if layout.num_workers == layout.replicate and parted.device == CPU:
        return parted.model if rank() == 0 else None
    weights = parted.whole_weights()
    if weights is None:
        return None
    model = WORKLOADS[training.spec.workload.kind].build(training.spec.workload, training.transform)
    make_trainable(model, training.spec.train)
    model.load_state_dict(weights)
    return model


def _after_epoch(progress: Progress, value: float, rule: EarlyStoppingSpec) -> Progress:
    """Note the watched metric's value of the epoch that ends at `progress.step`; NaN, of diverged weights, stops."""
    if not math.isfinite(value):
        return replace(progress, stopped=True)
    best = progress.best_value
    if best is None or (value > best if rule.mode == "max" else value < best):
        return replace(progress, best_value=value, best_step=progress.step, epochs_without_better=0)
    waited = progress.epochs_without_better + 1
    return replace(progress, epochs_without_better=waited, stopped=waited >= rule.patience)
