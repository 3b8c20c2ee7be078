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
from jobs.spec import RingSpec, TrainSpec
from jobs.trainable import make_trainable
from jobs.workloads import WORKLOADS
from jobs.workloads.chain import Batch


def forecaster_of(spec: RingSpec, storage: Storage, device: Device) -> Forecaster:
    """Forecasts for a spec; reads what is prepared, and builds the model without weights.

    Raises:
        DataError: nothing is prepared, and the model depends on what would be.
    """
    return Forecaster(spec, model_of(spec, storage), optimizer_of(spec.train, device.is_cpu), device)


def model_of(spec: RingSpec, storage: Storage) -> Model:
    """The spec's model on fake tensors, and rows as training feeds them.

    Raises:
        DataError: nothing is prepared, and the model depends on what would be.
    """
    workload = WORKLOADS[spec.workload.kind]
    transform, rows = _prepared(spec, storage)
    drawn = workload.draw(spec.workload, transform, torch.Generator())
    recorder = Recorder()
    with recorder:
        whole = workload.build(spec.workload, transform).train()
        make_trainable(whole, spec.train)

    def losses(outputs: Tensor, batch: Batch) -> Tensor:
        return workload.loss(spec.workload, outputs, batch)

    return Model(whole, workload.partition(spec.workload), losses, Example(workload.tensors(rows), drawn), recorder)


def _prepared(spec: RingSpec, storage: Storage) -> tuple[Transform, pa.Table]:
    """The fitted transform and a row, or of a language model of bytes, which fits nothing, one made up."""
    try:
        folder = f"prepared/{spec.name}/{prepare_inputs(spec, storage).key}"
    except DataError:
        folder = ""
    workload = WORKLOADS[spec.workload.kind]
    if folder and storage.is_published(folder):
        split = open_split(storage, folder, "train", workload.ties)
        return read_transform(storage, folder), split.take(np.zeros(1, np.int64))
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

    def __call__(self, spec: RingSpec, layouts: Sequence[Layout]) -> Ranking:
        """Legal layouts of the spec, the fastest first; those that do not fit, the smallest first."""
        fits, unfit = _forecaster(dump(spec), self.storage, dump(self.device)).of(layouts)
        rates = self.device.rates_key
        return Ranking(
            tuple(Outlook(one.layout, one.memory_bytes, one.step_s, rates) for one in fits),
            unfit,
        )


@lru_cache(maxsize=4)
def _forecaster(spec: str, storage: Storage, device: str) -> Forecaster:
    """By their texts, which can be told from others: trials of one search often share their model."""
    return forecaster_of(parse(RingSpec, spec, "the search's spec"), storage, parse(Device, device, "the device"))


def foreseen_line(spec: RingSpec, storage: Storage, device: Device, name: str) -> str:
    """What a worker of the spec's own layout needs, and how long a step takes, in a line."""
    found = forecaster_of(spec, storage, device).forecast(spec.layout)
    if isinstance(found, TooLarge):
        return f"foreseen on {name}: does not fit, {found.reason}"
    memory = f"{found.memory_bytes / 2**30:.2f} GiB a worker ({found.memory.line()})"
    return f"foreseen on {name}: {memory}, {found.step_s:.3g} s a step"
