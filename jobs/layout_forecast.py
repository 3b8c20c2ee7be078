"""The model, optimizer and rows of a spec without numbers, for forecasts of its layouts; see `jobs.search.forecast`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import prod

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from cluster.errors import DataError
from cluster.layout import Layout
from cluster.spec import dump, parse
from cluster.storage import Storage
from jobs.features.split import SPLIT
from jobs.features.transform import Transform
from jobs.lineage import prepare_inputs
from jobs.moving_average import update
from jobs.optimization import build_optimizer
from jobs.prepared import open_split, read_transform
from jobs.search.device import Device
from jobs.search.footprint import Recorder
from jobs.search.forecast import Forecaster, TooLarge
from jobs.search.memory import OptimizerMemory, OptimizerOf
from jobs.search.ranking import Outlook, Ranking
from jobs.search.stretches import Example, Model
from jobs.spec import RingSpec, TrainSpec, TuneSpec
from jobs.trainable import make_trainable
from jobs.workloads import WORKLOADS
from jobs.workloads.chain import Batch


def forecaster_of(spec: RingSpec, storage: Storage, device: Device) -> Forecaster:
    """Forecasts for a spec; reads what is prepared, and builds the model without weights.

    Raises:
        DataError: nothing is prepared, and the model depends on what would be.
    """
    return _forecaster(spec, model_of(spec, storage), device)


def _forecaster(spec: RingSpec, model: Model, device: Device) -> Forecaster:
    return Forecaster(spec, model, optimizer_of(spec.train, device.is_cpu), device)


def model_of(spec: RingSpec, storage: Storage) -> Model:
    """The spec's model on fake tensors, and rows as training feeds them.

    Raises:
        DataError: nothing is prepared, and the model depends on what would be.
    """
    return _model_with(spec, storage, _rows_of(spec, storage))


def _model_with(spec: RingSpec, storage: Storage, prepared: str) -> Model:
    """Args:
    prepared: where its rows lie; empty where there are none.
    """
    workload = WORKLOADS[spec.workload.kind]
    transform, rows = _prepared(spec, storage, prepared)
    drawn = workload.draw(spec.workload, transform, torch.Generator())
    recorder = Recorder()
    with recorder:
        whole = workload.build(spec.workload, transform).train()
        make_trainable(whole, spec.train)

    def losses(outputs: Tensor, batch: Batch) -> Tensor:
        return workload.loss(spec.workload, outputs, batch)

    return Model(whole, workload.partition(spec.workload), losses, Example(workload.tensors(rows), drawn), recorder)


def _rows_of(spec: RingSpec, storage: Storage) -> str:
    """Where the spec's prepared rows lie; empty where there are none."""
    try:
        folder = f"prepared/{spec.name}/{prepare_inputs(spec, storage).key}"
    except DataError:
        return ""
    return folder if storage.is_published(folder) else ""


def _prepared(spec: RingSpec, storage: Storage, prepared: str) -> tuple[Transform, pa.Table]:
    """The fitted transform and a row, or of a language model of bytes, which fits nothing, one made up."""
    workload = WORKLOADS[spec.workload.kind]
    if prepared:
        split = open_split(storage, prepared, "train", workload.ties)
        return read_transform(storage, prepared), split.take(np.zeros(1, np.int64))
    if workload.steps(spec.workload):
        raise DataError(
            f"nothing is prepared for this spec in '{storage.uri}', and the {spec.workload.kind} model depends on what "
            "prepare fits, such as how many labels there are; run first: python -m jobs.prepare SPEC"
        )
    texts = pa.table({"document": ["a"], "text": ["a" * 64], SPLIT: ["train"]})
    return Transform(()), workload.unfold(spec.workload, texts)


def optimizer_of(train: TrainSpec, is_cpu: bool) -> OptimizerOf:
    """What the spec's optimizer, and its moving average, hold of weights of some shapes.

    On a CPU it moves one weight after the other, on a GPU all of a group at once (torch's `foreach`).
    """

    @cache
    def of_one(shape: tuple[int, ...]) -> OptimizerMemory:
        return _held(train, shape)

    def held(shapes: Sequence[tuple[int, ...]]) -> OptimizerMemory:
        each = [of_one(shape) for shape in shapes]
        moving = max((one.moving_bytes for one in each), default=0)
        if not is_cpu and train.optimizer.name != "sgd":
            moving = sum(4 * prod(shape) for shape in shapes)
        return OptimizerMemory(sum(one.state_bytes for one in each), moving)

    return held


def _held(train: TrainSpec, shape: tuple[int, ...]) -> OptimizerMemory:
    """By a step of one fake weight, then another one."""
    recorder = Recorder()
    with recorder:
        weight = nn.Parameter(torch.empty(shape))
        optimizer = build_optimizer(train.optimizer, [weight])
        weight.grad = torch.empty(shape)
        recorder.begin()
        optimizer.step()
        if train.ema_decay is not None:
            update(optimizer, train.ema_decay)
        state = recorder.live_bytes
        recorder.begin()
        optimizer.step()
        return OptimizerMemory(state, max(recorder.levels, default=0))


@dataclass(frozen=True)
class ByForecast:
    """The order of a search's layouts, and those that it leaves out, by what is foreseen of them."""

    storage: Storage
    device: Device
    prepared: str = ""
    """Where the rows of all specs that are asked about lie, if that is known: it is looked up for each one else."""

    def __call__(self, spec: RingSpec, layouts: Sequence[Layout]) -> Ranking:
        """Legal layouts of the spec, the fastest first; those that do not fit, the smallest first."""
        model = _known_model(_of_model(spec), self.storage, self.prepared or _rows_of(spec, self.storage))
        fits, unfit = _forecaster(spec, model, self.device).of(layouts)
        rates = self.device.rates_key
        return Ranking(
            tuple(Outlook(one.layout, one.memory_bytes, one.step_s, rates) for one in fits),
            unfit,
        )


def _of_model(spec: RingSpec) -> str:
    """The text of a spec that has the same model, alike for all that have: trials of one search often share theirs."""
    train = {key: getattr(spec.train, key) for key in ("start", "freeze", "lora", "early_stopping")}
    return dump(
        spec.model_copy(update={"train": TrainSpec(**train), "tune": TuneSpec(), "layout": Layout(), "seed": 0})
    )


@lru_cache(maxsize=4)
def _known_model(spec: str, storage: Storage, prepared: str) -> Model:
    return _model_with(parse(RingSpec, spec, "the search's spec"), storage, prepared)


def foreseen_line(spec: RingSpec, storage: Storage, device: Device, name: str) -> str:
    """What a worker of the spec's own layout needs, and how long a step takes, in a line."""
    found = forecaster_of(spec, storage, device).forecast(spec.layout)
    if isinstance(found, TooLarge):
        return f"foreseen on {name}: does not fit, {found.reason}"
    memory = f"{found.memory_bytes / 2**30:.2f} GiB a worker ({found.memory.line()})"
    return f"foreseen on {name}: {memory}, {found.step_s:.3g} s a step"
