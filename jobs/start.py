"""What a model starts from instead of weights drawn at random, and whether all of it fits."""

import torch
from torch import nn

from cluster.errors import SpecError
from cluster.registry import Registry
from cluster.storage import Storage
from jobs.features.transform import Transform
from jobs.prepared import read_transform
from jobs.spec import RingSpec
from jobs.start_weights import FromCheckpoint, FromFolder, FromVersion, Shapes, Start
from jobs.weight_names import matching, own_weights, without_weights

MAX_NAMED = 4
"""Weights of each fault that a message names."""


def start_of(spec: RingSpec, storage: Storage) -> Start | None:
    """What `train.start` names.

    Raises:
        RegistryError: there is no such version.
        SpecError: there is no such checkpoint.
    """
    given = spec.train.start
    if given is None:
        return None
    if given.folder is not None:
        return FromFolder(given.folder)
    if given.checkpoint is not None:
        return FromCheckpoint.at(storage, given.checkpoint)
    assert given.version is not None  # of the three one is given
    registry = Registry(storage, given.model or spec.name)
    return FromVersion(registry, given.version, registry.resolve(given.version), registry.name == spec.name)


def settled(spec: RingSpec, storage: Storage) -> RingSpec:
    """The spec with a `train.start` that means the same on every worker, and later on."""
    start, given = start_of(spec, storage), spec.train.start
    if start is None or given is None:
        return spec
    return spec.model_copy(update={"train": spec.train.model_copy(update={"start": start.settled(given)})})


def check_start(spec: RingSpec, storage: Storage, prepared: str) -> str:
    """Raise SpecError unless the weights fit the model, all of them; returns what is to be minded, or nothing.

    Reads shapes, and no more of the weights than it has to.
    """
    start, given = start_of(spec, storage), spec.train.start
    if start is None or given is None:
        return ""
    transform = read_transform(storage, prepared)
    model = without_weights(spec.workload, transform)
    own = {name: tuple(weight.shape) for name, weight in own_weights(model)}
    left_out = matching(given.leave_out, own, "train.start.leave_out")
    note = start.check(spec, transform, left_out)
    faults = _faults({name: own[name] for name in own if name not in left_out}, start.shapes(model), set(own), model)
    if faults:
        raise SpecError(
            f"train.start: {start.line()} does not fit the model that workload describes: {'; '.join(faults)}. "
            "Give workload the sizes it was made with, or leave weights out: train.start.leave_out=[PATTERN, ...]"
        )
    return note


def put_start(model: nn.Module, spec: RingSpec, storage: Storage, transform: Transform) -> None:
    """Copy what `train.start` names into a whole model, where there is one; `check_start` has seen that it fits."""
    start, given = start_of(spec, storage), spec.train.start
    if start is None or given is None:
        return
    own = dict(own_weights(model))
    wanted = set(own) - matching(given.leave_out, own, "train.start.leave_out")
    found = start.weights(sorted(wanted), transform)
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(found[name])


def _faults(wanted: Shapes, given: Shapes, known: set[str], model: nn.Module) -> list[str]:
    """What is wrong, with the names of a few weights each."""
    known = known | set(model.state_dict())  # a matrix that two layers share has two names there
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in known]
    other = [
        f"{name} {list(given[name])} for {list(shape)}"
        for name, shape in wanted.items()
        if name in given and given[name] != shape
    ]
    told = (("it lacks", missing), ("the model has no", unknown), ("of other shape are", other))
    return [f"{what} {_few(names)}" for what, names in told if names]


def _few(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
