"""tabular: predicts one column of a table from the others, with a residual MLP.

The blocks are those of Gorishniy et al. (2021), with LayerNorm in the place of BatchNorm: what a row is told must not
depend on which rows a worker trains it with.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from cluster.spec import Spec
from jobs.features.arrays import one_array
from jobs.features.columns import REASON, Column
from jobs.features.scaling import Scaling
from jobs.features.split import SPLIT, TrainRows
from jobs.features.step import Step
from jobs.features.transform import Transform
from jobs.features.vector import Vector
from jobs.features.vocabulary import Vocabulary
from jobs.workloads import classification
from jobs.workloads.activation import ACTIVATIONS, Activation
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.dropout import RowDropout
from jobs.workloads.partition import Partition
from jobs.workloads.table_augment import TableAugmentSpec, augmented

ID = "id"
NUMBER, CATEGORY, VECTOR = "number:", "category:", "vector:"
"""What the names of the columns begin with that the model sees."""
RESERVED = (ID, REASON, SPLIT, classification.CLASS, classification.PREDICTED, classification.PROBABILITIES)
"""Columns that are added to those of the table."""
NUM_GOLDEN_ROWS = 16

metrics = classification.METRICS
lower_is_better = classification.LOWER_IS_BETTER
apart = classification.apart
time: str | None = None
ties: tuple[str, ...] = (ID,)
unfolds_by: tuple[str, ...] = ()


class TabularSpec(Spec):
    """The columns of the table and the size of the model."""

    kind: Literal["tabular"] = "tabular"
    label: str
    """The column to predict; each of its values is a class."""
    numeric: tuple[str, ...] = ()
    """Columns of numbers; a cell may be empty."""
    categorical: tuple[str, ...] = ()
    """Columns of categories; a cell may be empty."""
    vectors: tuple[str, ...] = ()
    """Columns of lists of numbers, all of one length, such as steps of `prepare` make; taken as they are."""
    standardize: bool = True
    """Whether numbers are standardised; if not, they are taken as they are, scaled by steps of `prepare` or not."""
    hidden_dim: int = Field(64, ge=1)
    feed_forward_dim: int = Field(128, ge=1)
    """Inside each block."""
    activation: Activation = "gelu"
    num_layers: int = Field(2, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    label_smoothing: float = Field(0, ge=0, lt=1)
    """In training, the share of each row that is wanted of all classes alike."""
    class_weights: Literal["alike", "balanced"] = "alike"
    """Whether every row counts alike in training, or every class."""
    augment: TableAugmentSpec = TableAugmentSpec()

    @model_validator(mode="after")
    def _names_columns(self) -> "TabularSpec":
        names = [self.label, *self.numeric, *self.categorical, *self.vectors]
        if len(names) == 1:
            raise ValueError("numeric, categorical and vectors name no column to predict from; give one")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"column '{name}' is named {names.count(name)} times in label, numeric, categorical, vectors"
                )
            if name in RESERVED or name.startswith((NUMBER, CATEGORY, VECTOR)):
                raise ValueError(
                    f"a column '{name}' would meet one that prepare makes; give it another name here, and the one it "
                    f"has in the files as raw.events.columns: {{NAME: {name}}}"
                )
        return self


def event_columns(spec: TabularSpec) -> tuple[Column, ...]:
    """A row of the table: which one, what it says, what is to be predicted."""
    return (
        Column(ID, "id"),
        *(Column(name, "number", nullable=True) for name in spec.numeric),
        *(Column(name, "text", nullable=True) for name in spec.categorical),
        *(Column(name, "numbers", nullable=True) for name in spec.vectors),
        Column(spec.label, "id"),
    )


def item_columns(spec: TabularSpec) -> tuple[Column, ...]:
    """There are no items."""
    return ()


def unfold(spec: TabularSpec, events: pa.Table) -> pa.Table:
    """A row of the table is a training row."""
    return events


def steps(spec: TabularSpec) -> tuple[Step, ...]:
    """Numbers are scaled, or only named; categories and labels of the training rows get an index each."""
    method: Literal["standard", "none"] = "standard" if spec.standardize else "none"
    return (
        *(Scaling(column=name, output=NUMBER + name, method=method) for name in spec.numeric),
        *(Vocabulary(column=name, output=CATEGORY + name) for name in spec.categorical),
        *(Vector(column=name, output=VECTOR + name) for name in spec.vectors),
        Vocabulary(column=spec.label, output=classification.CLASS),
        *classification.weighing(spec.class_weights, spec.label),
    )


def lookups(transform: Transform, items: pa.Table, train: Callable[[], TrainRows]) -> dict[str, pa.Table]:
    """None."""
    return {}


class Embedding(nn.Module):
    """Numbers, which of them are missing, and vectors through a matrix; categories by a vector each; all added up."""

    starts: Tensor

    def __init__(self, num_numbers: int, length: int, sizes: list[int], hidden_dim: int) -> None:
        """Args:
        length: entries of all vectors together.
        sizes: how many indices each column of categories has, index 0 for what is missing or unknown.
        """
        super().__init__()
        num_inputs = 2 * num_numbers + length
        self.numbers = nn.Linear(num_inputs, hidden_dim) if num_inputs else None
        self.categories = nn.Embedding(sum(sizes), hidden_dim) if sizes else None
        starts = torch.tensor([sum(sizes[:place]) for place in range(len(sizes))], dtype=torch.int64)
        self.register_buffer("starts", starts, persistent=False)
        if self.categories:
            nn.init.normal_(self.categories.weight, std=0.1)
            with torch.no_grad():
                self.categories.weight[starts] = 0

    def forward(self, hidden: None, batch: Batch) -> Tensor:
        """`numbers` and `is_missing` [rows, numbers] and `vectors` [rows, entries] float32, `categories`
        [rows, categories] int64."""
        parts = []
        if self.numbers:
            parts.append(self.numbers(torch.cat([batch["numbers"], batch["is_missing"], batch["vectors"]], dim=1)))
        if self.categories:
            parts.append(self.categories(batch["categories"] + self.starts).sum(1))
        return torch.stack(parts).sum(0)


class Block(nn.Module):
    """A residual block; its dropout sees whole rows, which the layers before may hold in parts."""

    def __init__(self, spec: TabularSpec, salt: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(spec.hidden_dim)
        self.up = nn.Linear(spec.hidden_dim, spec.feed_forward_dim)
        self.activation = ACTIVATIONS[spec.activation]
        self.down = nn.Linear(spec.feed_forward_dim, spec.hidden_dim)
        self.dropout = RowDropout(spec.dropout, salt)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[rows, hidden_dim] -> the same; `batch` holds `key` [rows]."""
        inner: Tensor = self.dropout(self.down(self.activation(self.up(self.norm(hidden)))), batch["key"])
        return hidden + inner


class Head(nn.Module):
    """The logit of each class."""

    def __init__(self, hidden_dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim)
        self.output = nn.Linear(hidden_dim, num_classes)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """[rows, hidden_dim] -> [rows, classes]."""
        logits: Tensor = self.output(self.norm(hidden))
        return logits


def trains_on(spec: TabularSpec) -> tuple[str, ...]:
    """What the model sees of a row, and what it is to say."""
    made = ((NUMBER, spec.numeric), (CATEGORY, spec.categorical), (VECTOR, spec.vectors))
    named = (prefix + name for prefix, names in made for name in names)
    return (ID, classification.CLASS, classification.CLASS_WEIGHT, *named)


def partition(spec: TabularSpec) -> Partition:
    """Every axis but those of sequences. The head stays whole: its classes are few, and their number is the data's."""
    return Partition(
        units=("embedding", "layer*", "head"),
        num_links=spec.num_layers + 2,
        tensor={
            "embedding": "embedding",
            "layer*.norm": "norm",
            "layer*.up": "column",
            "layer*.down": "row",
            "head.norm": "norm",
            "head.output": "norm",
        },
        tensor_divides={"workload.feed_forward_dim": spec.feed_forward_dim},
        refused={
            "context": "its rows are no sequences",
            "sequence_parallel": "its rows are no sequences",
        },
    )


def build(spec: TabularSpec, transform: Transform) -> Chain:
    """The untrained model of these fitted features."""
    sizes = [_size(transform, CATEGORY + name) for name in spec.categorical]
    length = sum(_size(transform, VECTOR + name) for name in spec.vectors)
    blocks = {f"layer{number}": Block(spec, salt=number) for number in range(spec.num_layers)}
    return Chain(
        {
            "embedding": Embedding(len(spec.numeric), length, sizes, spec.hidden_dim),
            **blocks,
            "head": Head(spec.hidden_dim, len(classification.labels(transform))),
        }
    )


def tensors(rows: pa.Table) -> Batch:
    """`numbers`, `is_missing` [rows, numbers], `vectors` [rows, entries] float32, `categories` [rows, categories] and
    `class` [rows] int64.

    A missing number is 0, the mean, with a 1 in `is_missing`; a class that training did not show is -1.
    """
    numbers = torch.from_numpy(_matrix(rows, NUMBER, np.float32))
    return {
        "numbers": numbers.nan_to_num(),
        "is_missing": numbers.isnan().to(torch.float32),
        "vectors": torch.from_numpy(_vectors(rows)),
        "categories": torch.from_numpy(_matrix(rows, CATEGORY, np.int64)),
        "class": classification.classes(rows),
        **classification.weights(rows),
    }


def augment(spec: TabularSpec, batch: Batch, other: Callable[[], Batch]) -> Batch:
    """Cells with noise, of another row or taken away, as the spec says."""
    return batch if spec.augment == TableAugmentSpec() else augmented(spec.augment, batch, other)


def draw(spec: TabularSpec, transform: Transform, generator: Generator) -> Batch:
    """Nothing is left to chance."""
    return {}


def loss(spec: TabularSpec, outputs: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of the row's class [rows]."""
    return classification.cross_entropy(outputs, batch, spec.label_smoothing)


def evaluate(spec: TabularSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> dict[str, float]:
    """Accuracy and log loss; a label that training did not show counts as wrong."""
    return classification.scores(classification.probabilities(model, tensors(rows)), classification.classes(rows))


def baselines(spec: TabularSpec, transform: Transform, train: TrainRows, rows: pa.Table) -> dict[str, dict[str, float]]:
    """`class_shares` answers every row with the shares of the classes in training."""
    return {"class_shares": classification.class_shares(train, rows)}


def golden(spec: TabularSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> pa.Table:
    """Some rows as they were read, with `predicted` and `probabilities`."""
    rows = rows.slice(0, NUM_GOLDEN_ROWS)
    given = classification.probabilities(model, tensors(rows))
    made = ((NUMBER, spec.numeric), (CATEGORY, spec.categorical), (VECTOR, spec.vectors))
    read = transform.only(prefix + name for prefix, names in made for name in names).raw(rows)
    return classification.golden(transform, read.add_column(0, ID, rows.column(ID)), given)


def _size(transform: Transform, name: str) -> int:
    """How many indices a category has, or entries a vector."""
    step = transform.step(name)
    assert isinstance(step, Vocabulary | Vector)
    return step.size


def _vectors(rows: pa.Table) -> np.ndarray:
    """The lists of all columns of lists side by side [rows, entries], float32."""
    lists = [one_array(rows.column(name)) for name in rows.column_names if name.startswith(VECTOR)]
    parts = [column.flatten().to_numpy().reshape(rows.num_rows, -1) for column in lists]
    return np.concatenate([np.empty((rows.num_rows, 0), np.float32), *parts], axis=1)


def _matrix(rows: pa.Table, prefix: str, dtype: type[np.generic]) -> np.ndarray:
    """The columns whose names begin so [rows, columns]; NaN where a number is missing."""
    names = [name for name in rows.column_names if name.startswith(prefix)]
    matrix = np.empty((rows.num_rows, len(names)), dtype)
    for place, name in enumerate(names):
        matrix[:, place] = rows.column(name).to_numpy()
    return matrix
