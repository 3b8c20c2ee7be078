"""The workloads, one module each, by the `kind` their spec names."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol, TypeVar

import pyarrow as pa
from pydantic import Field
from torch import Generator, Tensor, nn

from jobs.features.columns import Column
from jobs.features.split import TrainRows
from jobs.features.step import Step
from jobs.features.transform import Transform
from jobs.workloads import gan, language, recommender, tabular, tagging, text, vision
from jobs.workloads.chain import Batch
from jobs.workloads.gan import GanSpec
from jobs.workloads.language import LanguageSpec
from jobs.workloads.partition import Partition
from jobs.workloads.recommender import RecommenderSpec
from jobs.workloads.tabular import TabularSpec
from jobs.workloads.tagging import TaggingSpec
from jobs.workloads.text import TextSpec
from jobs.workloads.vision import VisionSpec

WorkloadSpec = Annotated[
    RecommenderSpec | LanguageSpec | TabularSpec | TextSpec | TaggingSpec | VisionSpec | GanSpec,
    Field(discriminator="kind"),
]
S = TypeVar("S", contravariant=True)
O = TypeVar("O", contravariant=True)  # noqa: E741  # of outputs


class Workload(Protocol[S, O]):
    """What the stages ask of a workload; a module of this package answers it with functions.

    `S` is its spec, `O` what its model returns: a tensor, or tensors by name.
    """

    metrics: Sequence[str]
    """The names `evaluate` returns."""

    lower_is_better: frozenset[str]
    """Those of them that are errors."""

    time: str | None
    """The event column that orders rows in time; None where they have no order, so that a hash splits them."""

    ties: tuple[str, ...]
    """Columns that order rows of the same moment; no two training rows share them. Those that events have tell events
    apart: of two events that share them the later stays."""

    unfolds_by: tuple[str, ...]
    """The keys of its spec that `unfold` depends on."""

    def event_columns(self, spec: S, /) -> tuple[Column, ...]:
        """What an event row must hold."""

    def item_columns(self, spec: S, /) -> tuple[Column, ...]:
        """What an item row must hold; none where there are no items."""

    def unfold(self, spec: S, rows: pa.Table, /) -> pa.Table:
        """The training rows that a block of transformed events makes; each keeps its event's split."""

    def steps(self, spec: S, /) -> tuple[Step, ...]:
        """The steps to fit on the training rows."""

    def lookups(self, transform: Transform, items: pa.Table, train: Callable[[], TrainRows], /) -> dict[str, pa.Table]:
        """The tables that the model and serving look things up in; `train` reads the transformed rows."""

    def trains_on(self, spec: S, /) -> tuple[str, ...] | None:
        """The columns of transformed rows that training and `evaluate` read, `ties` among them; None for all.

        Rows are written without the others, but test rows keep what they were read as: golden rows are made of them.
        """

    def partition(self, spec: S, /) -> Partition:
        """How the model may be parted over workers."""

    def build(self, spec: S, transform: Transform, /) -> nn.Module:
        """The untrained model; draws its weights from torch's global generator."""

    def tensors(self, rows: pa.Table, /) -> Batch:
        """Transformed rows as tensors, one entry a row, for the model and the loss; the columns `ties` are not read.

        In training the feed adds `key` [rows] int64, a number of each row's own in this step, for `RowDropout`.
        """

    def augment(self, spec: S, batch: Batch, other: Callable[[], Batch], /) -> Batch:
        """Rows of training changed by chance, or the batch as it is; a pure function of rows and `key`.

        `other` gives another row of the same step for each, or now and then the same: their tensors.
        """

    def draw(self, spec: S, transform: Transform, generator: Generator, /) -> Batch:
        """What a step draws by chance for its whole global batch; the same on all ranks."""

    def loss(self, spec: S, outputs: O, batch: Batch, /) -> Tensor:
        """The loss of each row [rows], float32.

        Of a stretch of each row's sequence it is that stretch's share, so that the shares add up to the row's loss.
        """

    @property
    def apart(self) -> Callable[[Any, Any, Batch, float], Tensor] | None:
        """How far outputs are from those of another model, at a temperature: of each row [rows], float32.

        None where models cannot learn from each other.
        """

    def evaluate(self, spec: S, model: nn.Module, transform: Transform, rows: pa.Table, /) -> dict[str, float]:
        """The metrics of a model on transformed held-out rows."""

    def baselines(
        self, spec: S, transform: Transform, train: TrainRows, rows: pa.Table, /
    ) -> dict[str, dict[str, float]]:
        """The same metrics of predictors that any model must beat; each gives those it can."""

    def golden(self, spec: S, model: nn.Module, transform: Transform, rows: pa.Table, /) -> pa.Table:
        """Some raw rows and what the model answers to them."""


WORKLOADS: dict[str, Workload[Any, Any]] = {
    "recommender": recommender,
    "language": language,
    "tabular": tabular,
    "text": text,
    "tagging": tagging,
    "vision": vision,
    "gan": gan,
}


def event_keys(spec: WorkloadSpec) -> tuple[str, ...]:
    """The columns that tell events apart; a hash of them splits events that no time orders."""
    workload = WORKLOADS[spec.kind]
    names = {column.name for column in workload.event_columns(spec)}
    return tuple(name for name in workload.ties if name in names)
