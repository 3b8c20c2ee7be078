"""The workloads, one module each, by the `kind` their spec names."""

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
from torch import Generator, Tensor, nn

from jobs.features.columns import Column
from jobs.features.split import TrainRows
from jobs.features.transform import Step, Transform
from jobs.workloads import recommender
from jobs.workloads.recommender import RecommenderSpec

WorkloadSpec = RecommenderSpec
Batch = dict[str, Tensor]


class Workload(Protocol):
    """What the stages ask of a workload; a module of this package answers it with functions."""

    metrics: Sequence[str]
    """The names `evaluate` returns."""

    lower_is_better: frozenset[str]
    """Those of them that are errors."""

    time: str
    """The event column that orders rows in time."""

    ties: tuple[str, ...]
    """Event columns that order rows of the same moment. No two rows share them: of two such rows the later stays."""

    def event_columns(self, spec: WorkloadSpec, /) -> tuple[Column, ...]:
        """What an event row must hold."""

    def item_columns(self, spec: WorkloadSpec, /) -> tuple[Column, ...]:
        """What an item row must hold."""

    def steps(self, spec: WorkloadSpec, /) -> tuple[Step, ...]:
        """The steps to fit on the training events."""

    def lookups(self, transform: Transform, items: pa.Table, train: TrainRows, /) -> dict[str, pa.Table]:
        """The tables that the model and serving look things up in; `train` is transformed."""

    def build(self, spec: WorkloadSpec, transform: Transform, /) -> nn.Module:
        """The untrained model; draws its weights from torch's global generator."""

    def tensors(self, rows: pa.Table, /) -> Batch:
        """Transformed rows as tensors, one entry a row."""

    def draw(self, spec: WorkloadSpec, transform: Transform, generator: Generator, /) -> Batch:
        """What a step draws by chance for its whole global batch; the same on all ranks."""

    def loss(self, spec: WorkloadSpec, outputs: Batch, batch: Batch, /) -> Tensor:
        """The loss summed over rows [], float32."""

    def evaluate(
        self, spec: WorkloadSpec, model: nn.Module, transform: Transform, rows: pa.Table, /
    ) -> dict[str, float]:
        """The metrics of a model on transformed held-out rows."""

    def baselines(
        self, spec: WorkloadSpec, transform: Transform, train: TrainRows, rows: pa.Table, /
    ) -> dict[str, dict[str, float]]:
        """The same metrics of predictors that any model must beat; each gives those it can."""

    def golden(self, spec: WorkloadSpec, model: nn.Module, transform: Transform, rows: pa.Table, /) -> pa.Table:
        """Some raw rows and what the model answers to them."""


WORKLOADS: dict[str, Workload] = {"recommender": recommender}
