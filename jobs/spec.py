"""The whole of a workload's YAML, section by section, in the order of the ring."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field, field_validator, model_validator

from cluster.errors import SpecError, nearest
from cluster.layout import Layout
from cluster.placement import PlacementSpec
from cluster.spec import Spec, load
from jobs.features.checks import CheckSpec, checked
from jobs.features.columns import REASON, Column
from jobs.features.history import HistorySpec, history_group
from jobs.features.split import SPLIT, SplitSpec
from jobs.features.steps import StepSpec
from jobs.features.transform import Transform
from jobs.features.values import ColumnKind, is_one_kind
from jobs.workloads import WORKLOADS, WorkloadSpec, event_keys


class SourceSpec(Spec):
    """One table of raw data: a folder (or file) below the storage, every file of it of a format that is read."""

    path: str
    """Relative to the storage."""
    columns: dict[str, str] = {}
    """Our column name -> the name it has in the files, where they differ."""
    checks: dict[str, CheckSpec] = {}
    """Our column name -> what its values must be, besides what the workload says."""


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
    in_process_bytes: int = Field(256 * 1024 * 1024, ge=0)
    """Raw files of so many bytes or fewer are prepared in one process, without a cluster, to the same rows."""
    split: SplitSpec = SplitSpec()
    history: tuple[HistorySpec, ...] = ()
    """Columns of what earlier rows held, made before the split is used; a row that is served brings its list itself."""
    steps: tuple[StepSpec, ...] = ()
    """Cleaning, scaling, encoding, in this order, before what the workload does itself; fitted on training rows."""


class OptimizerSpec(Spec):
    """How the weights are moved."""

    name: Literal["adamw", "adam", "rmsprop", "sgd"] = "adamw"
    """`sgd` with a `batch_size` of all rows, and `accumulation` to bound the memory, is full-batch gradient descent."""
    learning_rate: float = Field(5e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    decays: Literal["all", "matrices"] = "all"
    """What weight decay pulls to 0: every weight, or only those of two dims and more, so no biases and no norms."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of `sgd`; the others have their own."""


class EarlyStoppingSpec(Spec):
    """When to stop before the last epoch."""

    metric: str
    """A validation metric of the workload; also what the best checkpoint and the best trial are chosen by."""
    mode: Literal["max", "min"] = "max"
    patience: int = Field(3, ge=1)
    """Epochs without a better value."""


class DistillSpec(Spec):
    """How a model learns from a published version besides the labels."""

    model: str | None = None
    """The name of the spec that the version is of; None for this very one."""
    version: str
    """Its name, or an alias where it is of another spec."""
    share: float = Field(0.5, gt=0, le=1)
    """Of the loss, which is how far the answers are from the version's; the rest is how far from the labels."""
    temperature: float = Field(2.0, gt=0)
    """Logits are divided by it before they are compared: the higher, the more the unlikely classes count."""


class StartSpec(Spec):
    """What a model starts from instead of weights drawn at random: one of version, checkpoint and folder."""

    version: str | None = None
    """Its name, or an alias."""
    model: str | None = None
    """The name of the spec that the version is of; None for this very one."""
    checkpoint: str | None = None
    """The folder of a run, `checkpoints/NAME/KEY`, of which the best one is taken, or of one of its steps."""
    folder: str | None = None
    """The path or URI of a Hugging Face folder, which every worker has to reach; not of all workloads."""
    leave_out: tuple[str, ...] = ()
    """Names of weights, as fnmatch patterns, that are drawn at random nonetheless: `head.*` for other classes."""

    @model_validator(mode="after")
    def _is_one(self) -> "StartSpec":
        given = [name for name in ("version", "checkpoint", "folder") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} to start from; give one of version, checkpoint and folder, "
                "such as train.start.version=champion"
            )
        if self.model is not None and self.version is None:
            raise ValueError(f"model={self.model} says whose version it is, but {given[0]} is given; leave model out")
        return self


class LoraSpec(Spec):
    """A change of low rank that is learned beside some layers, whose own weights stay as they are."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    """The change is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ("layer*.attention.*", "layer*.feed_forward.*")
    """Names of linear layers, as fnmatch patterns: all in the layers of a decoder, unless told otherwise."""


class ElasticSpec(Spec):
    """How many workers a run may have where devices come and go: as many whole model replicas as there is room for."""

    min_workers: int = Field(1, ge=1)
    """While there is room for fewer, training waits."""
    max_workers: int = Field(ge=1)
    """Also what an autoscaler is asked for."""
    look_every_s: float = Field(10, gt=0)
    """How often a run looks whether there is room for more; it takes what it sees twice in a row."""

    @model_validator(mode="after")
    def _ordered(self) -> "ElasticSpec":
        if self.min_workers > self.max_workers:
            raise ValueError(f"max_workers={self.max_workers} is below min_workers={self.min_workers}; raise it")
        return self


class TrainSpec(Spec):
    """How a model is trained."""

    num_epochs: int = Field(12, ge=1)
    batch_size: int = Field(512, ge=1)
    """Rows of one global batch, over all replicas."""
    shuffle_rows: int = Field(131_072, ge=1)
    """Rows that are shuffled together, and so are in memory at a time."""
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: Literal["constant", "cosine", "exponential", "linear"] = "cosine"
    """Of the learning rate, over all steps after the warm-up."""
    warmup: float = Field(0, ge=0, lt=1)
    """The share of all steps in which the learning rate first rises to its full height, in equal parts."""
    max_gradient_norm: float | None = Field(None, gt=0)
    """Gradients of a larger 2-norm, over all weights, are scaled down to it."""
    start: StartSpec | None = None
    """What to start from; None draws all weights at random."""
    freeze: tuple[str, ...] = ()
    """Names of weights, as fnmatch patterns, that stay as they start."""
    lora: LoraSpec | None = None
    """Learns a small change beside some layers and freezes the rest; the change is merged when it is published."""
    distill: DistillSpec | None = None
    """What to learn from besides the labels."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Keeps a moving average of the weights, of which each step leaves this share, less at first; what is validated
    and published is the average then. 0.999 is usual, less for a run of few steps."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto` takes GPUs where the cluster has one for every worker."""
    early_stopping: EarlyStoppingSpec
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Besides the one at the end of each epoch."""
    keep_checkpoints: int = Field(2, ge=1)
    """The newest ones that stay, besides the best."""
    collective_timeout_s: int = Field(300, ge=1)
    """How long a worker waits for another one before the run counts as failed."""
    max_failures: int = Field(3, ge=0)
    """Deaths of workers that a run survives, each time going on from the last checkpoint."""
    elastic: ElasticSpec | None = None
    """Lets the number of model replicas follow the cluster; None keeps to `layout`."""
    mlflow: str | None = None
    """The address of an MLflow server that is told of every epoch, such as http://mlflow:5000; needs the extra
    `mlflow`."""


LAYOUTS_SHARE = ("layout.precision", "layout.compile")
"""Keys that the layouts which are searched take from the spec's own."""

Choices = list[bool | int | float | str]


class RangeSpec(Spec):
    """A stretch of numbers to search in."""

    low: float
    high: float
    log: bool = False
    """Search evenly in the logarithm."""
    integer: bool = False
    """Whole numbers alone, both ends among them."""
    step: int = Field(1, ge=1)
    """Of whole numbers, from low on: `{low: 64, high: 512, integer: true, step: 64}`."""
    when: dict[str, Choices] = {}
    """Keys, each with the values that it must have one of; else the range is not searched. See `ChoicesSpec`."""

    @model_validator(mode="after")
    def _ordered(self) -> "RangeSpec":
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 where log is true")
        if self.integer and (self.low % 1 or self.high % 1):
            raise ValueError("with integer: true, low and high must be whole numbers")
        if self.step > 1 and (not self.integer or self.log or (self.high - self.low) % self.step):
            raise ValueError("step is of whole numbers without log, and leads from low to high")
        return self


class ChoicesSpec(Spec):
    """Values to choose from where a condition holds; without one, a list alone says the same."""

    choices: Choices
    when: dict[str, Choices] = {}
    """Dotted keys, each with the values that it must have one of: in the trial where it is searched, else in the spec.
    Where it has another one, this key stays as the spec has it."""


Dimension = Choices | ChoicesSpec | RangeSpec
"""What is searched of one key."""


INSIDE_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the entrypoint of a submitted job."""

RESERVED = frozenset({REASON, SPLIT})
"""Columns that prepare makes."""

CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
"""A transcript, a turn a line."""


class TuneSpec(Spec):
    """How the training strategy is searched: first the layout, by its speed, then everything else, by quality."""

    layouts: Literal["all"] | tuple[Layout, ...] | None = None
    """The layouts to choose from: these, or all that the model can be trained on; None leaves `layout` as it is.
    Precision and compilation are those of `layout`."""
    devices: int | None = Field(None, ge=1)
    """Workers of the largest layout; None for as many as the cluster has devices."""
    num_layouts: int = Field(4, ge=1)
    """Those that are measured, the fastest by the forecast."""
    num_steps: int = Field(5, ge=1)
    """Of a layout that is measured, besides the two that warm it up."""
    num_trials: int = Field(0, ge=0)
    """Of everything else. 0, without `layouts`, leaves the search out: train then uses the spec as it is."""
    scheduler: Literal["asha", "pbt"] = "asha"
    """What becomes of weak trials: `asha` stops them; `pbt`, population-based training, lets them go on from the
    weights of strong ones, with other values. Then `num_trials` is how many members the population has."""
    num_epochs: int = Field(3, ge=1)
    """Of the longest trial; ASHA stops the weak ones earlier. With `pbt`, of every member."""
    perturb_every: int = Field(1, ge=1)
    """Epochs after which `pbt` compares the members."""
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at a time; None for as many as the cluster has room for."""
    workers: Literal["one", "layout"] = "one"
    """Of a trial: one, which computes the same, or all of the layout, for a model that does not fit on one device."""
    space: dict[str, Dimension] = {}
    """A dotted key of this spec -> the values to try: a list, or a range."""
    device_table: str = ""
    """A file of devices besides those that come along; see `jobs/search/devices.yaml`."""

    @property
    def is_on(self) -> bool:
        """Whether anything is searched."""
        return self.num_trials > 0 or self.layouts is not None

    @property
    def is_population(self) -> bool:
        """Whether values are searched by population-based training."""
        return self.num_trials > 0 and self.scheduler == "pbt"


class CompressSpec(Spec):
    """How a version is made smaller."""

    version: str = "champion"
    """An alias or the name of the version to start from."""
    method: Literal["int8", "int8_weights", "prune"] = "int8"
    """`int8` stores and computes linear layers in whole numbers of 8 bits; `int8_weights` stores all matrices so and
    computes in float32; `prune` lets the smallest weights be 0 and stores the others."""
    share: float | None = Field(None, gt=0, lt=1)
    """Of the weights, which `prune` lets be 0."""

    @model_validator(mode="after")
    def _share_is_of_prune(self) -> "CompressSpec":
        if (self.method == "prune") != (self.share is not None):
            raise ValueError(
                f"method={self.method} with share={self.share}: prune needs the share of weights to let be 0, such as "
                "compress.share=0.5, and the other methods take none"
            )
        return self

    def line(self) -> str:
        """In a few words."""
        return self.method if self.share is None else f"{self.method} {self.share:g}"


class GenerationSpec(Spec):
    """How a language model answers."""

    max_texts: int = Field(16, ge=1)
    """Texts that a replica goes on with at a time; more than these wait. Each takes memory for one context."""
    chat_template: str = CHAT_TEMPLATE
    """Jinja that makes one prompt of `messages`, each with `role` and `content`; as models bring it on Hugging Face."""

    @field_validator("chat_template")
    @classmethod
    def _parses(cls, template: str) -> str:
        try:
            ImmutableSandboxedEnvironment().parse(template)
        except TemplateSyntaxError as error:
            raise ValueError(f"no Jinja template: {error.message}, line {error.lineno}") from None
        return template


class AutoscaleSpec(Spec):
    """How many replicas there are, by what is asked."""

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(ge=1)
    target_ongoing_requests: float = Field(8.0, gt=0)
    """Of a replica, those that wait among them; more of them bring more replicas."""
    upscale_delay_s: float = Field(10.0, ge=0)
    """As long it must have been too many."""
    downscale_delay_s: float = Field(60.0, ge=0)
    """As long it must have been few."""

    @model_validator(mode="after")
    def _is_ordered(self) -> "AutoscaleSpec":
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas} is below min_replicas={self.min_replicas}; raise it")
        return self


class TlsSpec(Spec):
    """Where HTTPS is spoken, as long as `serving.app` runs."""

    certificate: str
    """A PEM file with the certificate, its chain and its private key."""
    port: int = Field(8443, ge=1, le=65535)
    host: str = "0.0.0.0"


class ServingSpec(Spec):
    """How the application answers."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    version: str = "champion"
    """An alias or the name of a version."""
    promote: Literal["beats_baselines", "never"] = "beats_baselines"
    """When train makes the version it has published the champion."""
    num_replicas: int = Field(1, ge=1)
    autoscale: AutoscaleSpec | None = None
    """Instead of `num_replicas`."""
    num_cpus: float = Field(0.0, ge=0)
    """Reserved for each replica. 0 shares the CPUs with training, so that one small machine can do both."""
    num_gpus: float = Field(0.0, ge=0, le=1)
    """The share of a GPU that each replica answers on; 0 answers on the CPU."""
    max_body_bytes: int = Field(1_000_000, ge=1)
    access: Literal["keys", "open"] = "keys"
    """Who may ask: whoever has a key of `python -m serving.keys`, or everybody who reaches the port."""
    tls: TlsSpec | None = None
    """A port of its own for HTTPS, before the one for HTTP."""
    request_log: Literal["failures", "all", "none"] = "failures"
    """Which requests get a line of JSON in the replica's log."""
    traces: str = Field("", pattern=r"^(https?://.+)?$")
    """Where OpenTelemetry's spans go: a collector that takes OTLP over HTTP, such as http://collector:4318."""
    keep_predictions: bool = True
    """Whether answers of an application that takes feedback are kept, so that feedback can name them."""
    generation: GenerationSpec = GenerationSpec()
    """Of `language` alone."""

    @model_validator(mode="after")
    def _counts_once(self) -> "ServingSpec":
        if self.autoscale and self.num_replicas != 1:
            raise ValueError(f"num_replicas={self.num_replicas} and autoscale both say how many; leave out one")
        return self


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
    placement: PlacementSpec = PlacementSpec()
    tune: TuneSpec = TuneSpec()
    train: TrainSpec
    serving: ServingSpec = ServingSpec()
    compress: CompressSpec = CompressSpec()


def load_ring(path: str | Path, overrides: Sequence[str] = ()) -> RingSpec:
    """Load a ring's spec; a key given as an override is settled, so it leaves the search space.

    Raises:
        SpecError: see `cluster.spec.load`.
    """
    spec = load(RingSpec, path, overrides)
    _check_storage(spec.storage)
    _check_items(spec)
    item_columns(spec)  # says what is wrong with a check
    _check_split(spec)
    _check_history(spec)
    _check_steps(spec)
    _check_generation(spec)
    return spec.model_copy(update={"tune": _unsettled(spec.tune, [each.partition("=")[0] for each in overrides])})


def _unsettled(tune: TuneSpec, settled: Sequence[str]) -> TuneSpec:
    """The search without the keys that were given on the command line."""
    space = {
        key: values
        for key, values in tune.space.items()
        if not any(key == given or key.startswith(f"{given}.") for given in settled)
    }
    has_layout = any(key == "layout" or key.startswith("layout.") for key in settled if key not in LAYOUTS_SHARE)
    is_asked = "tune.layouts" in settled
    return tune.model_copy(update={"space": space, "layouts": None if has_layout and not is_asked else tune.layouts})


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


def _check_generation(spec: RingSpec) -> None:
    if spec.serving.generation != GenerationSpec() and spec.workload.kind != "language":
        raise SpecError(f"serving.generation is of language models, the workload is {spec.workload.kind}; leave it out")


def _check_split(spec: RingSpec) -> None:
    split, kind, keys = spec.prepare.split, spec.workload.kind, event_keys(spec.workload)
    own = WORKLOADS[kind].time
    if split.by == "time" and own is None and split.column is None:
        raise SpecError(
            f"prepare.split.by=time: the {kind} workload reads no time that could order its rows; "
            "name a column that does in prepare.split.column, or "
            f"give prepare.split.by=hash, which splits them by {', '.join(keys)}"
        )
    if split.by == "time" and split.column is not None and own is not None:
        raise SpecError(
            f"prepare.split.column={split.column}: the {kind} workload is split by its own '{own}'; leave column out, "
            f"or say which column is meant by that: raw.events.columns.{own}={split.column}"
        )
    if split.within is not None and split.within not in keys:
        raise SpecError(
            f"prepare.split.within: '{split.within}' does not part the events. {nearest(split.within, keys)}"
        )


def event_columns(spec: RingSpec) -> tuple[Column, ...]:
    """What a raw event must hold: what the steps and the workload read and no step before makes.

    Raises:
        SpecError: a check is of another column, or of the wrong kind.
    """
    history = spec.prepare.history
    made = {one.output for one in history}
    read: dict[str, ColumnKind] = {}
    for one in history:
        read |= {one.group: "text", one.time: "time"}
        read.setdefault(one.column, "number")
    for step in spec.prepare.steps:
        read |= {name: kind for name, kind in step.reads.items() if name not in made | set(read)}
        made |= set(step.makes)
    if spec.prepare.split.column:
        read.setdefault(spec.prepare.split.column, "time" if spec.prepare.split.by == "time" else "text")
    own = {column.name: column for column in WORKLOADS[spec.workload.kind].event_columns(spec.workload)}
    replaced = {
        name for name, kind in read.items() if name in made and name in own and not is_one_kind(kind, own[name].kind)
    }
    kept = [column for name, column in own.items() if name not in replaced and (name in read or name not in made)]
    never_missing = {spec.prepare.split.column, *(name for one in history for name in (one.group, one.time))}
    added = [
        Column(name, kind, nullable=name not in never_missing)
        for name, kind in read.items()
        if name not in own or name in replaced
    ]
    return checked((*kept, *added), spec.raw.events.checks, "raw.events")


def item_columns(spec: RingSpec) -> tuple[Column, ...]:
    """What a raw item must hold; none where there are no items.

    Raises:
        SpecError: see `event_columns`.
    """
    columns = WORKLOADS[spec.workload.kind].item_columns(spec.workload)
    return checked(columns, spec.raw.items.checks, "raw.items") if spec.raw.items else columns


def transform_of(spec: RingSpec) -> Transform:
    """The unfitted steps of the spec, then those of the workload."""
    return Transform((*spec.prepare.steps, *WORKLOADS[spec.workload.kind].steps(spec.workload)))


def _check_history(spec: RingSpec) -> None:
    """A list has a name of its own, and is made of raw columns of the right kinds."""
    history_group(spec.prepare.history)
    kinds: dict[str, ColumnKind] = {column.name: column.kind for column in event_columns(spec)}
    taken = {*kinds, *event_keys(spec.workload), *RESERVED}
    for number, one in enumerate(spec.prepare.history):
        where = f"prepare.history.{number}"
        if one.output in taken:
            raise SpecError(
                f"{where} makes '{one.output}', the name of a column that is there already; give another output"
            )
        taken.add(one.output)
        wanted: dict[str, ColumnKind] = {one.column: "number", one.time: "time", one.group: "text"}
        for name, kind in wanted.items():
            if name not in kinds:
                raise SpecError(f"{where} reads '{name}', which prepare.history makes; name a column of the raw rows")
            if not is_one_kind(kinds[name], kind):
                raise SpecError(f"{where} reads '{name}' as {kind}, but there it is of kind {kinds[name]}")


def _check_steps(spec: RingSpec) -> None:
    """Every column must come to a step and to the workload in the kind that it takes."""
    keys = event_keys(spec.workload)
    kinds = {column.name: column.kind for column in event_columns(spec)}
    kinds |= {one.output: "numbers" for one in spec.prepare.history}
    for number, step in enumerate(spec.prepare.steps):
        where = f"prepare.steps.{number} ({step.kind})"
        for name, kind in step.reads.items():
            if not is_one_kind(kinds[name], kind):
                raise SpecError(f"{where} reads '{name}' as {kind}, but there it is of kind {kinds[name]}")
        for name in step.makes:
            if name in keys or name in RESERVED:
                raise SpecError(f"{where} makes '{name}', a name that prepare needs itself; give another output")
        kinds |= step.makes
    for column in WORKLOADS[spec.workload.kind].event_columns(spec.workload):
        if not is_one_kind(kinds[column.name], column.kind):
            raise SpecError(
                f"the {spec.workload.kind} workload reads '{column.name}' as {column.kind}, but prepare.steps make it "
                f"of kind {kinds[column.name]}; give that step another output, or name the column where it fits"
            )


def sections(spec: RingSpec, *names: str) -> dict[str, Any]:
    """The named sections as plain data: the spec part that a stage's output depends on."""
    tree = spec.model_dump(mode="json")
    return {name: tree[name] for name in names}
