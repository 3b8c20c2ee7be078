"""What the workloads that name a row's class share: class numbers, loss, metrics, the simplest baseline, answers."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.features.class_weight import ClassWeight
from jobs.features.split import TrainRows
from jobs.features.transform import Transform
from jobs.features.vocabulary import Vocabulary
from jobs.workloads.chain import Batch
from jobs.workloads.device import device_of
from jobs.workloads.divergence import divergence

CLASS = "class"
"""The output of the label's vocabulary: 1 for the most frequent label, 0 for one that training did not show."""
CLASS_WEIGHT = "class_weight"
"""The output of the step of that name, in rows and in batches; there only where classes are to count alike."""
PREDICTED, PROBABILITIES = "predicted", "probabilities"
"""What golden rows hold of the model's answer."""
METRICS: Sequence[str] = ("accuracy", "log_loss")
LOWER_IS_BETTER = frozenset({"log_loss"})
ROWS_AT_ONCE = 512
"""Predicted together, so that what lies between the layers fits in memory."""
LEAST_PROBABILITY = 1e-15
"""What a class counts as that was given less, or that training did not show; else one row could cost infinitely."""


def weighing(class_weights: Literal["alike", "balanced"], label: str) -> tuple[ClassWeight, ...]:
    """The steps that weigh rows by their class."""
    return (ClassWeight(column=label, output=CLASS_WEIGHT),) if class_weights == "balanced" else ()


def labels(transform: Transform) -> list[str]:
    """The label of each class."""
    step = transform.step(CLASS)
    assert isinstance(step, Vocabulary)
    values: list[str] = step.values.to_pylist()
    return values


def classes(rows: pa.Table) -> Tensor:
    """The class of each row from 0 on, -1 for a label that training did not show [rows], int64."""
    return torch.from_numpy(rows.column(CLASS).to_numpy().astype(np.int64) - 1)


def weights(rows: pa.Table) -> Batch:
    """What `cross_entropy` weighs rows by: `class_weight` [rows] float32, or nothing where all count alike."""
    if CLASS_WEIGHT not in rows.column_names:
        return {}
    return {CLASS_WEIGHT: torch.from_numpy(rows.column(CLASS_WEIGHT).to_numpy().astype(np.float32))}


def cross_entropy(logits: Tensor, batch: Batch, label_smoothing: float) -> Tensor:
    """The loss of each row in nats [rows], float32.

    Args:
        logits: [rows, classes].
        batch: `class` [rows], int64, and `class_weight` [rows] where classes are to count alike.
        label_smoothing: the share of each row that is wanted of all classes alike (Szegedy et al., 2016).
    """
    losses = F.cross_entropy(
        logits.float(), batch[CLASS], reduction="none", ignore_index=-1, label_smoothing=label_smoothing
    )
    return losses * batch[CLASS_WEIGHT] if CLASS_WEIGHT in batch else losses


def apart(outputs: Tensor, wanted: Tensor, batch: Batch, temperature: float) -> Tensor:
    """How far the logits of each row are from another model's [rows]; rows count alike, whatever their class weighs."""
    return divergence(outputs, wanted, temperature)


@torch.no_grad()
def probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """How likely the model holds each class [rows, classes], float64 in host memory."""
    num_rows = len(next(iter(batch.values())))
    batch = {"key": torch.zeros(num_rows, dtype=torch.int64), **batch}
    on_device = {name: values.to(device_of(model)) for name, values in batch.items()}
    parts = zip(*(values.split(ROWS_AT_ONCE) for values in on_device.values()), strict=True)
    logits = [model(dict(zip(batch, part, strict=True))).cpu() for part in parts]
    return torch.cat(logits).double().softmax(-1)


def scores(given: Tensor, actual: Tensor) -> dict[str, float]:
    """Accuracy, and the mean negative logarithm of the probability that the actual class was given.

    Args:
        given: probabilities [rows, classes].
        actual: classes [rows], int64; -1 is never right.
    """
    of_actual = given.gather(1, actual.clamp(min=0)[:, None]).squeeze(1) * (actual >= 0)
    log_loss = -of_actual.clamp(min=LEAST_PROBABILITY).log().mean()
    return {"accuracy": accuracy(given.argmax(1), actual), "log_loss": float(log_loss)}


def accuracy(predicted: Tensor, actual: Tensor) -> float:
    """The share of rows whose class was predicted."""
    return float((predicted == actual).double().mean())


def class_shares(train: TrainRows, rows: pa.Table) -> dict[str, float]:
    """The scores of giving every row the shares that the classes have in training, so always the most frequent one."""
    counts = torch.bincount(classes(train.table)).double()
    return scores((counts / counts.sum()).expand(rows.num_rows, -1), classes(rows))


def golden(transform: Transform, read: pa.Table, given: Tensor) -> pa.Table:
    """Rows as they were read, with `predicted`, a label, and `probabilities`, in the order of `labels`."""
    names = labels(transform)
    predicted = pa.array([names[place] for place in given.argmax(1).tolist()], pa.string())
    probabilities = pa.array(given.tolist(), pa.list_(pa.float64()))
    return read.append_column(PREDICTED, predicted).append_column(PROBABILITIES, probabilities)
