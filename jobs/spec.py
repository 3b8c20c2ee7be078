"""The whole of a workload's YAML, section by section, in the order of the ring."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.errors import SpecError, nearest
from cluster.layout import Layout
from cluster.spec import Spec, load
from jobs.features.split import SplitSpec
from jobs.workloads import WORKLOADS, WorkloadSpec, event_keys


class SourceSpec(Spec):
    """One table of raw data: a folder (or file) below the storage, every file of it CSV, JSON lines or Parquet."""

    path: str
    """Relative to the storage."""
    columns: dict[str, str] = {}
    """Our column name -> the name it has in the files, where they differ."""


class RawSpec(Spec):
    """Where the raw data lies."""

    events: SourceSpec
    """What happened: one row an event. Collected feedback is added to this folder."""
    items: SourceSpec | None = None
    """What it happened to: one row an item; only for a workload that has items."""


class PrepareSpec(Spec):
    """How raw rows become training rows."""

    max_bad_fraction: float = Field(0.05, ge=0, le=1)
    """Share of rows that may go to quarantine before the stage refuses the data."""
    split: SplitSpec = SplitSpec()


class OptimizerSpec(Spec):
    """How the weights are moved."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(5e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of `sgd`; the others have their own."""


class EarlyStoppingSpec(Spec):
    """When to stop before the last epoch."""

    metric: str
    """A validation metric of the workload; also what the best checkpoint and the best trial are chosen by."""
    mode: Literal["max", "min"] = "max"
    patience: int = Field(3, ge=1)
    """Epochs without a better value."""


class TrainSpec(Spec):
    """How a model is trained."""

    num_epochs: int = Field(12, ge=1)
    batch_size: int = Field(512, ge=1)
    """Rows of one global batch, over all replicas."""
    shuffle_rows: int = Field(131_072, ge=1)
    """Rows that are shuffled together, and so are in memory at a time."""
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: Literal["constant", "cosine", "exponential"] = "cosine"
    """Of the learning rate, over all steps."""
    max_gradient_norm: float | None = Field(None, gt=0)
    """Gradients of a larger 2-norm, over all weights, are scaled down to it."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto` takes GPUs where the cluster has one for every worker."""
    early_stopping: EarlyStoppingSpec
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Besides the one at the end of each epoch."""
    keep_checkpoints: int = Field(2, ge=1)
    """The newest ones that stay, besides the best."""
    max_failures: int = Field(3, ge=0)
    """Deaths of workers that a run survives, each time going on from the last checkpoint."""


class RangeSpec(Spec):
    """A stretch of numbers to search in."""

    low: float
    high: float
    log: bool = False
    """Search evenly in the logarithm."""

    @model_validator(mode="after")
    def _ordered(self) -> "RangeSpec":
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 where log is true")
        return self


INSIDE_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the entrypoint of a submitted job."""

Choices = list[bool | int | float | str]


class TuneSpec(Spec):
    """How the training strategy is searched."""

    num_trials: int = Field(0, ge=0)
    """0 leaves the search out: train then uses the spec as it is."""
    num_epochs: int = Field(3, ge=1)
    """Of the longest trial; ASHA stops the weak ones earlier."""
    max_concurrent: int = Field(2, ge=1)
    space: dict[str, Choices | RangeSpec] = {}
    """A dotted key of this spec -> the values to try: a list, or a range."""


class ServingSpec(Spec):
    """How the application answers."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    version: str = "champion"
    """An alias or the name of a version."""
    promote: Literal["beats_baselines", "never"] = "beats_baselines"
    """When train makes the version it has published the champion."""
    num_replicas: int = Field(1, ge=1)
    num_cpus: float = Field(0.0, ge=0)
    """Reserved for each replica. 0 shares the CPUs with training, so that one small machine can do both."""
    max_body_bytes: int = Field(1_000_000, ge=1)


class RingSpec(Spec):
    """A workload from raw data to the served model."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    """Of the workload's folders and of its HTTP prefix."""
    storage: str = "~/rayline"
    """A local path or a URI that every node of the cluster reaches."""
    seed: int = Field(0, ge=0)
    raw: RawSpec
    prepare: PrepareSpec = PrepareSpec()
    workload: WorkloadSpec
    layout: Layout = Layout()
    tune: TuneSpec = TuneSpec()
    train: TrainSpec
    serving: ServingSpec = ServingSpec()


def load_ring(path: str | Path, overrides: Sequence[str] = ()) -> RingSpec:
    """Load a ring's spec; a key given as an override is settled, so it leaves the search space.

    Raises:
        SpecError: see `cluster.spec.load`.
    """
    spec = load(RingSpec, path, overrides)
    _check_storage(spec.storage)
    _check_items(spec)
    _check_split(spec)
    settled = [override.partition("=")[0] for override in overrides]
    space = {
        key: values
        for key, values in spec.tune.space.items()
        if not any(key == given or key.startswith(f"{given}.") for given in settled)
    }
    return spec.model_copy(update={"tune": spec.tune.model_copy(update={"space": space})})


def _check_storage(storage: str) -> None:
    is_relative = "://" not in storage and not Path(storage).expanduser().is_absolute()
    if is_relative and INSIDE_A_JOB in os.environ:
        raise SpecError(
            f"storage '{storage}' is a relative path, but a submitted job runs in a copy of the folder that is removed "
            "after it. Give an absolute path or a URI: storage=/data/rayline"
        )


def _check_items(spec: RingSpec) -> None:
    has_items = bool(WORKLOADS[spec.workload.kind].item_columns(spec.workload))
    if has_items and spec.raw.items is None:
        raise SpecError(
            f"raw.items is missing, the {spec.workload.kind} workload reads items as well as events; "
            "say where they are: raw.items.path=..."
        )
    if not has_items and spec.raw.items is not None:
        raise SpecError(
            f"raw.items.path={spec.raw.items.path} would not be read, the {spec.workload.kind} workload has no items; "
            "leave raw.items out"
        )


def _check_split(spec: RingSpec) -> None:
    split, kind, keys = spec.prepare.split, spec.workload.kind, event_keys(spec.workload)
    if split.by == "time" and WORKLOADS[kind].time is None:
        raise SpecError(
            f"prepare.split.by=time: the {kind} workload reads no time that could order its rows; "
            f"give prepare.split.by=hash, which splits them by {', '.join(keys)}"
        )
    if split.within is not None and split.within not in keys:
        raise SpecError(
            f"prepare.split.within: '{split.within}' does not part the events. {nearest(split.within, keys)}"
        )


def sections(spec: RingSpec, *names: str) -> dict[str, Any]:
    """The named sections as plain data: the spec part that a stage's output depends on."""
    tree = spec.model_dump(mode="json")
    return {name: tree[name] for name in names}
