"""TensorBoard event files in the storage: `tensorboard --logdir STORAGE/checkpoints/NAME` draws them."""

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self
from uuid import uuid4

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from cluster.storage import Storage


class EventFiles:
    """Scalars over steps, uploaded before `add` returns, so that a killed run keeps what it has shown."""

    def __init__(self, storage: Storage, folder: str, enabled: bool = True) -> None:
        self._storage, self._folder = storage, folder
        self._scratch = TemporaryDirectory() if enabled else None
        self._writer = _writer(Path(self._scratch.name)) if self._scratch else None

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Note one value a name."""
        if self._writer is None or self._scratch is None:
            return
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._writer.flush()
        self._storage.upload(Path(self._scratch.name), self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None and self._scratch is not None:
            self._writer.close()
            self._scratch.cleanup()


def _writer(folder: Path) -> EventsWriter:
    """Not SummaryWriter: its `flush` leaves behind what still waits in the queue to its thread.

    The suffix keeps a run that goes on within the same second from writing over the file of the one before.
    """
    return EventsWriter(str(folder / "events"), f".{uuid4().hex}")
