"""A published version as the teacher of a model in training (distillation; Hinton et al., 2015)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cluster.errors import SpecError
from cluster.registry import Registry
from cluster.storage import Storage
from jobs import version
from jobs.parallel.parted import Losses
from jobs.prepared import read_transform
from jobs.spec import DistillSpec, RingSpec
from jobs.version import Version
from jobs.workloads import WORKLOADS
from jobs.workloads.chain import Batch


@dataclass(frozen=True)
class Teacher:
    """Which version teaches."""

    registry: Registry
    version: str

    def read(self) -> Version:
        """What was published."""
        with self.registry.open(self.version) as folder:
            return version.read(folder)


def teacher_of(spec: RingSpec, storage: Storage) -> Teacher | None:
    """The version that `train.distill` names.

    Raises:
        RegistryError: there is none of that name.
        SpecError: an alias of the very model that is trained.
    """
    given = spec.train.distill
    if given is None:
        return None
    registry = Registry(storage, given.model or spec.name)
    resolved = registry.resolve(given.version)
    if registry.name == spec.name and resolved != given.version:
        raise SpecError(
            f"train.distill.version={given.version} is an alias of '{spec.name}' itself: once the student has it, the "
            f"student would teach the next run. Give the version: train.distill.version={resolved}"
        )
    return Teacher(registry, resolved)


def check_teacher(spec: RingSpec, storage: Storage, prepared: str) -> None:
    """Raise SpecError unless the teacher reads rows as the student does: what the steps have learned is the same."""
    teacher = teacher_of(spec, storage)
    if teacher is None:
        return
    content = teacher.read()
    is_kind = content.spec.workload.kind == spec.workload.kind
    if not is_kind or not content.transform.alike(read_transform(storage, prepared)):
        raise SpecError(
            f"train.distill: version {teacher.version} of '{teacher.registry.name}' reads other rows than those in "
            f"{prepared}: another workload, other steps, or steps fitted on other rows. Train a teacher on the same "
            "raw data with the same prepare section, or leave train.distill out"
        )


def taught(losses: Losses, spec: RingSpec, storage: Storage, device: torch.device) -> Losses:
    """The loss of each row with the teacher's share in it, where the spec names one."""
    given, teacher = spec.train.distill, teacher_of(spec, storage)
    if given is None or teacher is None:
        return losses
    return _with_teacher(losses, spec, given, teacher.read().model.to(device))


def _with_teacher(losses: Losses, spec: RingSpec, given: DistillSpec, model: nn.Module) -> Losses:
    apart = WORKLOADS[spec.workload.kind].apart
    assert apart is not None  # `fit.check` has refused the others

    def both(outputs: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = model(batch)
        if wanted.shape != outputs.shape:
            raise SpecError(
                f"train.distill: the teacher answers with {wanted.shape[-1]} numbers and the student with "
                f"{outputs.shape[-1]}; give the student's workload the same vocabulary_size"
            )
        of_teacher = apart(outputs, wanted, batch, given.temperature)
        return (1 - given.share) * losses(outputs, batch) + given.share * of_teacher

    return both
