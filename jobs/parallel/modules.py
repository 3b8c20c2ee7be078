"""Finding the modules of a model that a partition speaks of."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from torch import nn


def matching(model: nn.Module, patterns: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose path matches a pattern, in order; `*` stands for a part of one name, not for dots."""
    patterns = list(patterns)
    for path, module in model.named_modules():
        if any(matches(path, pattern) for pattern in patterns):
            yield path, module


def matches(path: str, pattern: str) -> bool:
    """Whether a module path has the form of a pattern."""
    names, wanted = path.split("."), pattern.split(".")
    return len(names) == len(wanted) and all(map(fnmatchcase, names, wanted))


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
