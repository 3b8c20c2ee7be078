"""TensorBoard event files in the storage: `tensorboard --logdir STORAGE/checkpoints/NAME` draws them."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from tensorboardX import SummaryWriter

from cluster.storage import Storage


class EventFiles:
    """Scalars over steps, uploaded after each `add`, so that a killed run keeps what it has shown."""

    def __init__(self, storage: Storage, folder: str, enabled: bool = True):
        self._storage, self._folder = storage, folder
        self._scratch = TemporaryDirectory() if enabled else None
        self._writer = SummaryWriter(self._scratch.name) if self._scratch else None

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Note one value a name."""
        if self._writer is None or self._scratch is None:
            return
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
        self._storage.upload(Path(self._scratch.name), self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None and self._scratch is not None:
            self._writer.close()
            self._scratch.cleanup()
