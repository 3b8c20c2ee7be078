"""Writing checkpoints in the background, while training goes on."""

import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from pyarrow import NativeFile, fs
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from cluster.storage import Storage
from jobs.parallel.checkpoint import Checkpoints, Origin, Progress, storage_errors
from jobs.parallel.checkpoint_state import training_state
from jobs.parallel.collectives import done_by_first

LAST_WRITE_S = 20
"""How long a write may still take after training has failed."""


class CheckpointWriter:
    """Writes the checkpoints of a run. All ranks open it, save at the same steps, and close it.

    A save copies the state to host memory and returns; a thread writes the copy. What goes wrong there is raised, on
    every rank, by the next save or on closing. Its messages go over a process group of their own, since between two
    threads the default group's would get mixed up.
    """

    def __init__(self, checkpoints: Checkpoints, keep: int, origin: Origin) -> None:
        """`keep` is how many of the newest checkpoints stay, besides the best."""
        self._checkpoints, self._keep, self._origin = checkpoints, keep, origin
        self._group: ProcessGroup | None = None
        self._writing: Future[None] | None = None
        self.blocked_s = 0.0
        """For how long saving has held up training so far."""

    def __enter__(self) -> Self:
        if dist.is_initialized():
            self._group = dist.new_group(backend="gloo")
        else:
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is what is wanted
        has_gpu = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=has_gpu,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=has_gpu,
            )
        )
        self._thread = ThreadPoolExecutor(1, "checkpoint writer")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last write; an error of training itself goes before one of that write.

        After such an error the write may wait for a worker that will never come, so it is not waited for much longer.
        """
        if error is not None and self._writing and not wait([self._writing], LAST_WRITE_S).done:
            error.add_note(f"the newest checkpoint was not written within {LAST_WRITE_S} s")
            self._thread.shutdown(wait=False)
            return
        try:
            self._wait()
        except Exception as late:
            if error is None:
                raise
            error.add_note(str(late))
        finally:
            self._thread.shutdown()
            self._stager.close()
            if self._group:
                dist.destroy_process_group(self._group)

    def save(self, model: nn.Module, optimizer: Optimizer, progress: Progress) -> float:
        """Begin to write the checkpoint of `progress.step`, once the one before it is written.

        Args:
            model: what this worker holds of it, by the names of the whole.
            optimizer: of its parameters.

        Returns:
            For how long training was held up, in seconds.

        Raises:
            StorageError: the checkpoint before this one could not be written.
        """
        started = time.monotonic()
        self._wait()
        state: Any = self._stager.stage(dict(training_state(model, optimizer)))
        self._writing = self._thread.submit(self._write, state, progress)
        blocked_s = time.monotonic() - started
        self.blocked_s += blocked_s
        return blocked_s

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _write(self, state: dict[str, Any], progress: Progress) -> None:
        checkpoints, storage = self._checkpoints, self._checkpoints.storage
        with storage_errors(storage, f"the checkpoint of step {progress.step} cannot be written"):
            staged = done_by_first(lambda: storage.stage(checkpoints.at(progress.step)), self._group)
            save(
                state, storage_writer=writer_to(storage, staged), process_group=self._group
            )  # returns when all are done
            done_by_first(lambda: checkpoints.publish(staged, progress, self._origin, self._keep), self._group)


def writer_to(storage: Storage, folder: str) -> FileSystemWriter:
    """What torch writes a checkpoint with: one file a rank, durable when it is closed."""
    path = storage.path(folder)
    return FileSystemWriter(path) if storage.is_local else _ObjectWriter(path, storage.filesystem)


class _ObjectWriter(FileSystemWriter):
    """Streams to object storage, without a copy on a local disk."""

    def __init__(self, path: str, filesystem: fs.FileSystem) -> None:
        super().__init__(path, sync_files=False)
        self.fs = _ArrowFiles(filesystem)
        self.path = path  # as it was given: a Path takes two slashes for one


class _Unflushed:
    """A stream that torch may flush after every tensor without waiting until all that it has sent has arrived."""

    def __init__(self, stream: NativeFile) -> None:
        self.write, self.tell, self.close = stream.write, stream.tell, stream.close

    def flush(self) -> None:
        pass


class _ArrowFiles(FileSystem):
    """The little that torch asks of a filesystem when it writes, by pyarrow."""

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self._filesystem = filesystem

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        with self._filesystem.open_output_stream(str(path)) as stream:
            yield _Unflushed(stream)

    def concat_path(self, path: Any, suffix: str) -> str:
        return f"{path}/{suffix}"

    def mkdir(self, path: Any) -> None:
        self._filesystem.create_dir(str(path))

    def exists(self, path: Any) -> bool:
        return bool(self._filesystem.get_file_info(str(path)).type != fs.FileType.NotFound)

    def rename(self, path: Any, new_path: Any) -> None:
        self._filesystem.move(str(path), str(new_path))
