"""text: names what a text is about, or wants, with a transformer that reads it from both sides."""

from collections.abc import Callable
from typing import Literal

import pyarrow as pa
import torch
from torch import Generator, Tensor, nn

from jobs.features.bpe import START
from jobs.features.columns import Column
from jobs.features.split import TrainRows
from jobs.features.step import Step
from jobs.features.transform import Transform
from jobs.features.vocabulary import Vocabulary
from jobs.workloads import classification, reading
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.encoder import encoder
from jobs.workloads.reading import READ, ReadingSpec, read, reading_step
from jobs.workloads.tokenizer import token_steps

NUM_GOLDEN_ROWS = 16

metrics = classification.METRICS
lower_is_better = classification.LOWER_IS_BETTER
apart = classification.apart
time: str | None = None
ties: tuple[str, ...] = ("id",)
unfolds_by: tuple[str, ...] = ()
partition = reading.partition
augment = reading.augment


class TextSpec(ReadingSpec):
    """The model, and how it learns."""

    kind: Literal["text"] = "text"
    tokenizer: Literal["bytes", "bpe", "folder"] = "bpe"
    class_weights: Literal["alike", "balanced"] = "alike"
    """Whether every row counts alike in training, or every class."""


def event_columns(spec: TextSpec) -> tuple[Column, ...]:
    """A text: which one, what it says, what it is."""
    return Column("id", "id"), Column("text", "text"), Column("label", "id")


def item_columns(spec: TextSpec) -> tuple[Column, ...]:
    """There are no items."""
    return ()


def unfold(spec: TextSpec, events: pa.Table) -> pa.Table:
    """A text is a training row."""
    return events


def steps(spec: TextSpec) -> tuple[Step, ...]:
    """Texts become rows of tokens; the labels of the training rows get an index each."""
    return (
        *token_steps(spec),
        reading_step(spec),
        Vocabulary(column="label", output=classification.CLASS),
        *classification.weighing(spec.class_weights, "label"),
    )


def lookups(transform: Transform, items: pa.Table, train: Callable[[], TrainRows]) -> dict[str, pa.Table]:
    """None."""
    return {}


def trains_on(spec: TextSpec) -> None:
    """All columns."""


def build(spec: TextSpec, transform: Transform) -> Chain:
    """The untrained model of these fitted features."""
    return encoder(spec, len(classification.labels(transform)), "text")


def tensors(rows: pa.Table) -> Batch:
    """`token` [rows, context_length] int64, `is_there` of the same shape, bool, and `class` [rows] int64."""
    return {**read(rows), classification.CLASS: classification.classes(rows), **classification.weights(rows)}


def draw(spec: TextSpec, transform: Transform, generator: Generator) -> Batch:
    """Nothing is left to chance."""
    return {}


def loss(spec: TextSpec, outputs: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of the row's class [rows]."""
    return classification.cross_entropy(outputs, batch, spec.label_smoothing)


def evaluate(spec: TextSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> dict[str, float]:
    """Accuracy and log loss; a label that training did not show counts as wrong."""
    return classification.scores(classification.probabilities(model, tensors(rows)), classification.classes(rows))


def baselines(spec: TextSpec, transform: Transform, train: TrainRows, rows: pa.Table) -> dict[str, dict[str, float]]:
    """`class_shares` answers every row with the shares of the classes in training; `naive_bayes` goes by how often each
    class has each of a text's tokens (McCallum and Nigam, 1998, the multinomial model with counts from one on)."""
    known, asked = tensors(train.table), tensors(rows)
    num_classes = len(classification.labels(transform))
    counts = torch.ones(num_classes, spec.vocabulary_size, dtype=torch.float64)
    classes = known[classification.CLASS][:, None].expand_as(known["token"])
    there = known["is_there"] & (known["token"] != START)
    counts.index_put_((classes[there], known["token"][there]), torch.ones((), dtype=torch.float64), accumulate=True)
    prior = torch.bincount(known[classification.CLASS], minlength=num_classes).double()
    of_token = (counts / counts.sum(1, keepdim=True)).log().T  # [tokens, classes]
    seen = asked["is_there"] & (asked["token"] != START)
    summed = [of_token[row[there]].sum(0) for row, there in zip(asked["token"], seen, strict=True)]
    logits = torch.stack(summed) + (prior / prior.sum()).log()
    return {
        "class_shares": classification.class_shares(train, rows),
        "naive_bayes": classification.scores(logits.softmax(-1), asked[classification.CLASS]),
    }


def golden(spec: TextSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> pa.Table:
    """Some texts as they were read, with `predicted` and `probabilities`."""
    rows = rows.slice(0, NUM_GOLDEN_ROWS)
    given = classification.probabilities(model, tensors(rows))
    read = transform.only([READ]).raw(rows)
    return classification.golden(transform, read.add_column(0, "id", rows.column("id")), given)
