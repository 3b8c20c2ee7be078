"""Published: a version as it is loaded to answer, once it answers its golden rows as it did in training."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch

from cluster.errors import RegistryError, UserError
from cluster.registry import Registry
from jobs.spec import RingSpec
from jobs.version import Version, read

CPU = torch.device("cpu")
TOLERANCE = 1e-4
"""How far an answer to a golden row may be from the one in training."""


class Published(ABC):
    """A version and what it was made of; an application's own class says how it answers."""

    def __init__(self, version: str, created_at: str, content: Version) -> None:
        self.version = version
        self.created_at = created_at
        self._content = content

    @classmethod
    def load(cls, registry: Registry, version: str, device: torch.device = CPU) -> Self:
        """Read a version, its checksums compared and its golden rows replayed, which also warms the model up.

        Args:
            device: where the model is to answer.

        Raises:
            RegistryError: it is not what was published, or answers unlike it did in training.
        """
        created_at = registry.manifest(version)["created_at"]
        with registry.open(version) as folder:
            try:
                content = read(folder)
            except UserError:
                raise
            except Exception as error:  # of any library that reads a part of it
                raise RegistryError(
                    f"version {version} cannot be read: {error}. Serve another version, or publish this one again"
                ) from error
            content.model.to(device)
        loaded = cls(version, created_at, content)
        loaded.check_golden()
        return loaded

    @abstractmethod
    def check_golden(self) -> None:
        """Raise RegistryError unless the golden rows are answered as in training, within TOLERANCE."""

    @property
    def spec(self) -> RingSpec:
        """The resolved spec that the version was trained with."""
        return self._content.spec

    @property
    def profile(self) -> Mapping[str, Any]:
        """What the columns of the training rows looked like."""
        return self._content.profile

    @property
    def metrics(self) -> dict[str, float]:
        """On the held-out test rows."""
        return self._content.metrics
