"""Which weights of a model are trained: all, all but the frozen ones, or a change of low rank beside some."""

from torch import nn

from cluster.errors import SpecError
from cluster.storage import Storage
from jobs import lora
from jobs.features.transform import Transform
from jobs.parallel.checkpoint import Checkpoints
from jobs.prepared import read_transform
from jobs.spec import RingSpec, TrainSpec
from jobs.weight_names import matching, own_weights, without_weights
from jobs.workloads import WORKLOADS


def check_sections(spec: RingSpec) -> None:
    """Raise SpecError where `train.freeze` or `train.lora` cannot go with another section; needs no model."""
    train, layout = spec.train, spec.layout
    if train.lora is None and not train.freeze:
        return
    key = "train.lora" if train.lora else "train.freeze"
    if train.lora and train.freeze:
        raise SpecError("train.lora freezes all weights that are there already; leave train.freeze out")
    if train.lora and train.start is None:
        raise SpecError(
            "train.lora learns a small change of weights that have been trained, but there are none; say which: "
            "train.start.version=champion"
        )
    if layout.pipeline > 1:
        raise SpecError(
            f"{key}: layout.pipeline={layout.pipeline} sends gradients back through every stage, and one whose weights "
            "are all frozen has none; give layout.pipeline=1 and more of replicate, shard or context"
        )
    if train.lora and layout.tensor > 1:
        raise SpecError(
            f"train.lora: layout.tensor={layout.tensor} splits the very layers that the change lies beside, which is "
            "not supported; give layout.tensor=1 and more of shard, which parts weights too"
        )


def check_trainable(spec: RingSpec, storage: Storage, prepared: str) -> None:
    """Raise SpecError unless every pattern of `train.freeze` and `train.lora` matches, and something is left to train.

    Reads no weights.
    """
    if spec.train.lora is None and not spec.train.freeze:
        return
    model = without_weights(spec.workload, read_transform(storage, prepared))
    make_trainable(model, spec.train)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SpecError(
            f"train.freeze={list(spec.train.freeze)} matches all weights, so that nothing is left to train; "
            "leave some out"
        )


def make_trainable(model: nn.Module, train: TrainSpec) -> None:
    """Freeze what is not trained of a whole model; LoRA's layers are put in their places.

    Beside these, what was left out of the start is trained: it was drawn at random.

    Raises:
        SpecError: a pattern matches nothing.
    """
    if train.lora and train.start:
        weights = dict(model.named_parameters())
        drawn = matching(train.start.leave_out, dict(own_weights(model)), "train.start.leave_out")
        lora.attach(model, train.lora)
        for name in drawn & weights.keys():
            weights[name].requires_grad_(True)
    freeze(model, train)


def freeze(model: nn.Module, train: TrainSpec) -> None:
    """Freeze what `train.freeze` matches; also in a model that was parted, since torch then makes some weights anew.

    Raises:
        SpecError: a pattern matches nothing.
    """
    weights = dict(model.named_parameters())
    for name in matching(train.freeze, weights, "train.freeze"):
        weights[name].requires_grad_(False)


def trained_model(spec: RingSpec, transform: Transform, checkpoints: Checkpoints, step: int) -> nn.Module:
    """The whole model of a checkpoint as it is published: moving averages where there are any, changes merged.

    Raises:
        StorageError: the checkpoint cannot be read.
    """
    model = WORKLOADS[spec.workload.kind].build(spec.workload, transform)
    make_trainable(model, spec.train)
    checkpoints.load_weights(step, model)
    lora.merge(model)
    return model.requires_grad_(True)
