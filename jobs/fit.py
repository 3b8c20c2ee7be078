"""fit: one worker's training loop; train runs it on every worker, tune in every trial."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cluster.errors import SpecError, nearest
from cluster.storage import Storage
from jobs.features.transform import Transform
from jobs.optimization import build_optimizer, gradient_norm, learning_rate, set_learning_rate
from jobs.parallel.checkpoint import Checkpoints, Progress
from jobs.parallel.replicate import (
    from_first,
    mean_over_batch,
    num_replicas,
    rank,
    replicate,
    sum_over_replicas,
)
from jobs.parallel.sample_order import batch_rows, epoch_order, replica_rows, step_generator, steps_in_epoch
from jobs.prepared import read_split, read_transform
from jobs.spec import EarlyStoppingSpec, RingSpec
from jobs.workloads import WORKLOADS, Batch


@dataclass(frozen=True)
class EpochReport:
    """What one epoch came to."""

    epoch: int
    """From 1 on."""
    num_epochs: int
    step: int
    num_steps: int
    loss: float
    """Mean over the epoch's training rows; over the rest of them after a resume in its middle."""
    gradient_norm: float
    """Of the last step."""
    learning_rate: float
    rows_per_s: float
    left_s: float
    """Until the last epoch, at this epoch's rate."""
    metrics: dict[str, float]
    """On the validation rows."""
    is_best: bool

    def line(self) -> str:
        """One line of progress."""
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        mark = " *" if self.is_best else ""
        return (
            f"epoch {self.epoch}/{self.num_epochs}  step {self.step}/{self.num_steps}  loss {self.loss:.4f}  "
            f"{metrics}  {self.rows_per_s:,.0f} rows/s  {self.left_s:.0f} s left{mark}"
        )

    def scalars(self) -> dict[str, float]:
        """Everything as numbers by name, for a searcher and for TensorBoard."""
        return {
            **{f"valid/{name}": value for name, value in self.metrics.items()},
            "train/loss": self.loss,
            "train/gradient_norm": self.gradient_norm,
            "train/learning_rate": self.learning_rate,
            "train/rows_per_s": self.rows_per_s,
        }


@dataclass
class _Training:
    """All that a training step touches."""

    spec: RingSpec
    transform: Transform
    rows: Batch
    valid: pa.Table
    model: nn.Module
    replicated: nn.Module
    optimizer: Optimizer

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.rows.values())))

    @property
    def steps_an_epoch(self) -> int:
        return steps_in_epoch(self.num_rows, self.spec.train.batch_size)

    @property
    def num_steps(self) -> int:
        return self.steps_an_epoch * self.spec.train.num_epochs


def check(spec: RingSpec) -> None:
    """Raise SpecError for what can be known before any worker starts."""
    spec.layout.check_batch(spec.train.batch_size)
    metrics = WORKLOADS[spec.workload.kind].metrics
    watched = spec.train.early_stopping.metric
    if watched not in metrics:
        raise SpecError(
            f"train.early_stopping.metric: '{watched}' is no metric of this workload. {nearest(watched, metrics)}"
        )


def fit(
    spec: RingSpec,
    storage: Storage,
    prepared: str,
    checkpoints: Checkpoints | None,
    report: Callable[[EpochReport], None],
) -> None:
    """Train to the last epoch or until the watched metric no longer gets better.

    Goes on from the newest of `checkpoints`, to the same result as a run that was never disturbed. Every worker of
    the process group calls it; `report` is called on each after every epoch.
    """
    training = _set_up(spec, storage, prepared)
    progress = _resume(training, checkpoints)
    while not progress.stopped:
        progress, epoch_report = _epoch(training, progress, checkpoints)
        if checkpoints:
            checkpoints.save(training.model, training.optimizer, progress, spec.train.keep_checkpoints)
        report(epoch_report)


def _set_up(spec: RingSpec, storage: Storage, prepared: str) -> _Training:
    workload = WORKLOADS[spec.workload.kind]
    transform = read_transform(storage, prepared)
    rows = workload.tensors(read_split(storage, prepared, "train", workload.ties))
    valid = read_split(storage, prepared, "valid", workload.ties)
    torch.manual_seed(spec.seed)
    model = workload.build(spec.workload, transform)
    optimizer = build_optimizer(spec.train.optimizer, model.parameters())
    return _Training(spec, transform, rows, valid, model, replicate(model), optimizer)


def _resume(training: _Training, checkpoints: Checkpoints | None) -> Progress:
    if checkpoints and rank() == 0:
        checkpoints.storage.discard_staged(checkpoints.folder)
    # The first worker looks: a listing of another moment could show the others another step.
    steps = from_first(checkpoints.steps() if checkpoints else [])
    if not checkpoints or not steps:
        return Progress()
    if rank() == 0:
        print(f"going on from the checkpoint of step {steps[-1]}", flush=True)
    return checkpoints.load(steps[-1], training.model, training.optimizer)


def _epoch(training: _Training, progress: Progress, checkpoints: Checkpoints | None) -> tuple[Progress, EpochReport]:
    """Train to the end of the epoch that `progress` stands in, then validate."""
    spec, train = training.spec, training.spec.train
    epoch, first = divmod(progress.step, training.steps_an_epoch)
    order = epoch_order(spec.seed, epoch, training.num_rows)
    started = time.monotonic()
    summed_loss = torch.zeros(())
    num_trained = 0
    training.replicated.train()
    for step in range(first, training.steps_an_epoch):
        batch = batch_rows(order, train.batch_size, step)
        summed_loss += _step(training, batch, progress.step)
        num_trained += len(batch)
        progress = replace(progress, step=progress.step + 1)
        is_due = train.checkpoint_every_steps and progress.step % train.checkpoint_every_steps == 0
        if checkpoints and is_due and step + 1 < training.steps_an_epoch:
            checkpoints.save(training.model, training.optimizer, progress, train.keep_checkpoints)
    metrics = _validate(training)
    seconds = time.monotonic() - started
    loss = float(sum_over_replicas(summed_loss)) / num_trained
    value = metrics[train.early_stopping.metric] if math.isfinite(loss) else math.nan
    progress = _after_epoch(progress, value, train.early_stopping)
    progress = replace(progress, stopped=progress.stopped or epoch + 1 == train.num_epochs)
    return progress, EpochReport(
        epoch=epoch + 1,
        num_epochs=train.num_epochs,
        step=progress.step,
        num_steps=training.num_steps,
        loss=loss,
        gradient_norm=gradient_norm(training.model.parameters()),
        learning_rate=learning_rate(train, progress.step - 1, training.num_steps),
        rows_per_s=num_trained / seconds,
        left_s=(training.num_steps - progress.step) * seconds / (training.steps_an_epoch - first),
        metrics=metrics,
        is_best=progress.best_step == progress.step,
    )


def _step(training: _Training, batch: Any, step: int) -> Tensor:
    """Move the weights by one global batch; returns this worker's summed loss []."""
    spec, workload = training.spec, WORKLOADS[training.spec.workload.kind]
    set_learning_rate(training.optimizer, learning_rate(spec.train, step, training.num_steps))
    mine = torch.from_numpy(replica_rows(batch, rank(), num_replicas()))
    rows = {name: values[mine] for name, values in training.rows.items()}
    rows |= workload.draw(spec.workload, training.transform, step_generator(spec.seed, step, "draw"))
    torch.manual_seed(step_generator(spec.seed, step, f"dropout of replica {rank()}").initial_seed())
    summed = workload.loss(spec.workload, training.replicated(rows), rows)
    training.optimizer.zero_grad(set_to_none=True)
    mean_over_batch(summed, len(batch)).backward()
    training.optimizer.step()
    return summed.detach()


def _validate(training: _Training) -> dict[str, float]:
    """The metrics on the validation rows, measured by the first worker."""
    workload = WORKLOADS[training.spec.workload.kind]
    metrics: dict[str, float] = {}
    if rank() == 0:
        training.model.eval()
        metrics = workload.evaluate(training.spec.workload, training.model, training.transform, training.valid)
    return from_first(metrics)


def _after_epoch(progress: Progress, value: float, rule: EarlyStoppingSpec) -> Progress:
    """Note the watched metric's value of the epoch that ends at `progress.step`; NaN, of diverged weights, stops."""
    if not math.isfinite(value):
        return replace(progress, stopped=True)
    best = progress.best_value
    if best is None or (value > best if rule.mode == "max" else value < best):
        return replace(progress, best_value=value, best_step=progress.step, epochs_without_better=0)
    waited = progress.epochs_without_better + 1
    return replace(progress, epochs_without_better=waited, stopped=waited >= rule.patience)
