"""Weights of a model by patterns of their names, as a spec gives them."""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from cluster.errors import SpecError, nearest
from jobs.features.transform import Transform
from jobs.workloads import WORKLOADS, WorkloadSpec


def without_weights(spec: WorkloadSpec, transform: Transform) -> nn.Module:
    """The model with names and shapes alone: on the device `meta`, so that the largest takes no memory."""
    with torch.device("meta"):
        return WORKLOADS[spec.kind].build(spec, transform)


def own_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight, and every buffer that is kept, by its name; one that two layers share once."""
    kept = model.state_dict()
    yield from model.named_parameters()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


def matching(patterns: Sequence[str], names: Iterable[str], key: str) -> frozenset[str]:
    """The names that match a pattern of fnmatch, whose `*` also stands for dots.

    Args:
        key: of the spec, which gave the patterns.

    Raises:
        SpecError: a pattern matches nothing.
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise SpecError(f"{key}: no name matches '{pattern}'. {nearest(pattern, names)}")
        found |= matched
    return frozenset(found)
