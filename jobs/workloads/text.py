"""text: names what a text is about, or wants, with a transformer that reads it from both sides."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from jobs.features.arrays import one_array
from jobs.features.bpe import START
from jobs.features.columns import Column
from jobs.features.first_tokens import FirstTokens
from jobs.features.split import TrainRows
from jobs.features.step import Step
from jobs.features.transform import Transform
from jobs.features.vocabulary import Vocabulary
from jobs.workloads import classification
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.encoder import LAYER_ROLES, EncoderSpec, encoder
from jobs.workloads.partition import Partition
from jobs.workloads.text_augment import TextAugmentSpec, augmented
from jobs.workloads.tokenizer import TOKENS, TokenizerSpec, token_steps

NUM_GOLDEN_ROWS = 16
READ = "read"
"""The column of the tokens that the model reads."""

metrics = classification.METRICS
lower_is_better = classification.LOWER_IS_BETTER
apart = classification.apart
time: str | None = None
ties: tuple[str, ...] = ("id",)
unfolds_by: tuple[str, ...] = ()


class TextSpec(EncoderSpec, TokenizerSpec):
    """The model, and what it reads of a text."""

    kind: Literal["text"] = "text"
    context_length: int = Field(64, ge=2)
    """Tokens of a text that are read, the one that begins it among them; what follows them is not."""
    tokenizer: Literal["bytes", "bpe", "folder"] = "bpe"
    label_smoothing: float = Field(0, ge=0, lt=1)
    """In training, the share of each row that is wanted of all classes alike."""
    class_weights: Literal["alike", "balanced"] = "alike"
    """Whether every row counts alike in training, or every class."""
    augment: TextAugmentSpec = TextAugmentSpec()

    @model_validator(mode="after")
    def _fits(self) -> "TextSpec":
        if self.context_length > self.num_positions:
            raise ValueError(
                f"context_length={self.context_length} is more than num_positions={self.num_positions} have vectors; "
                f"give context_length={self.num_positions} or fewer, or more positions"
            )
        return self


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
    tokenizer = token_steps(spec)
    return (
        *tokenizer,
        FirstTokens(
            column=TOKENS if tokenizer else "text", output=READ, num_tokens=spec.context_length, of_bytes=not tokenizer
        ),
        Vocabulary(column="label", output=classification.CLASS),
        *classification.weighing(spec.class_weights, "label"),
    )


def lookups(transform: Transform, items: pa.Table, train: Callable[[], TrainRows]) -> dict[str, pa.Table]:
    """None."""
    return {}


def trains_on(spec: TextSpec) -> None:
    """All columns."""


def partition(spec: TextSpec) -> Partition:
    """Replicas, shards, a pipeline and split matrices."""
    of_sequences = "a text is short, and all of it is read at once"
    return Partition(
        units=("embedding", "layer*", "head"),
        num_links=spec.num_layers + 2,
        tensor=LAYER_ROLES,
        tensor_divides={
            "workload.num_heads": spec.num_heads,
            "workload.feed_forward_dim": spec.feed_forward_dim,
        },
        refused={"context": of_sequences, "sequence_parallel": of_sequences},
    )


def build(spec: TextSpec, transform: Transform) -> Chain:
    """The untrained model of these fitted features."""
    return encoder(spec, len(classification.labels(transform)), "text")


def tensors(rows: pa.Table) -> Batch:
    """`token` [rows, context_length] int64, `is_there` of the same shape, bool, and `class` [rows] int64."""
    flat: np.ndarray = one_array(rows.column(READ)).flatten().to_numpy()
    token = torch.from_numpy(flat.astype(np.int64)).reshape(rows.num_rows, -1)
    is_there = token != START
    is_there[:, 0] = True
    return {
        "token": token,
        "is_there": is_there,
        classification.CLASS: classification.classes(rows),
        **classification.weights(rows),
    }


def augment(spec: TextSpec, batch: Batch, other: Callable[[], Batch]) -> Batch:
    """Some of the tokens that are read replaced, as the spec says."""
    if not spec.augment.replace:
        return batch
    return batch | {"token": augmented(spec.augment, batch["token"], batch["key"])}


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
