import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_loader import load

from cluster.errors import StorageError
from cluster.storage import Storage
from jobs.parallel.checkpoint import Checkpoints, Origin, Progress
from jobs.parallel.checkpoint_writer import CheckpointWriter
from jobs.parallel.collectives import rank
from tests.jobs.parallel.parted_run import Run, new_run
from tests.jobs.parallel.workers import run_alone, run_together
from tests.s3 import S3Server

FOLDER = "checkpoints/films/0123"
HELD_S = 0.3
FILE_LIMIT_BYTES = 2000
"""Less than a checkpoint's file takes."""


def checkpoints_in(folder: Path, kind: type[Storage] = Storage) -> Checkpoints:
    return Checkpoints(kind(str(folder / "storage")), FOLDER)


def opened(checkpoints: Checkpoints) -> CheckpointWriter:
    return CheckpointWriter(checkpoints, 2, Origin("name: films\n", "replicate=2"))


def save(writer: CheckpointWriter, run: Run, step: int) -> float:
    return writer.save(run.model, run.optimizer, Progress(step=step))


def save_steps(checkpoints: Checkpoints, *steps: int) -> None:
    """What a run saves at these steps."""
    for step in steps:
        with opened(checkpoints) as writer:
            save(writer, new_run().train(0, step), step)


def assert_saved(checkpoints: Checkpoints, step: int) -> None:
    """The state of a run that was not disturbed is there."""
    run = new_run(seed=1)
    checkpoints.load(step, run.model, run.optimizer)
    torch.testing.assert_close(run.state(), new_run().train(0, step).state(), rtol=0, atol=0)


class HeldStorage(Storage):
    """Begins no folder before a file of this name lies beside it."""

    def stage(self, folder: str) -> str:
        while not Path(f"{self.uri}.open").exists():
            time.sleep(0.01)
        return super().stage(folder)


def let_go(checkpoints: Checkpoints) -> None:
    Path(f"{checkpoints.storage.uri}.open").touch()


def train_on_while_writing(folder: Path) -> None:
    """Two workers with sharded weights; the write begins only when they have trained on."""
    checkpoints = checkpoints_in(folder, HeldStorage)
    run = new_run("replicate 2 shard 2").train(0, 3)
    with opened(checkpoints) as writer:
        save(writer, run, 3)
        run.train(3, 6)
        dist.barrier()
        let_go(checkpoints)
        run.train(6, 8)
    torch.save(run.state(), folder / f"{rank()}.pt")


def test_training_goes_on_while_a_checkpoint_is_written_and_leaves_no_mark_in_it(tmp_path: Path) -> None:
    run_together(4, train_on_while_writing, tmp_path)
    assert_saved(checkpoints_in(tmp_path), 3)
    for worker in range(4):
        trained = torch.load(tmp_path / f"{worker}.pt")
        torch.testing.assert_close(trained, new_run().train(0, 8).state(), rtol=1e-6, atol=1e-6)


def test_a_save_does_not_wait_for_its_own_write_but_for_the_one_before(tmp_path: Path) -> None:
    checkpoints, run = checkpoints_in(tmp_path, HeldStorage), new_run().train(0, 1)
    with opened(checkpoints) as writer:
        first = save(writer, run, 1)
        assert checkpoints.steps() == []
        run.train(1, 2)
        threading.Timer(HELD_S, let_go, [checkpoints]).start()
        second = save(writer, run, 2)
        assert checkpoints.steps() in ([1], [1, 2])
    assert writer.blocked_s == pytest.approx(first + second)
    assert checkpoints.steps() == [1, 2]
    assert_saved(checkpoints, 1)
    assert_saved(checkpoints, 2)


def test_a_closed_writer_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.enumerate()
    save_steps(checkpoints_in(tmp_path), 1)
    assert [thread for thread in threading.enumerate() if thread not in before] == []


def test_what_is_written_is_what_torch_itself_reads(tmp_path: Path) -> None:
    checkpoints, run = checkpoints_in(tmp_path), new_run().train(0, 2)
    save_steps(checkpoints, 2)
    found: dict[str, Any] = {"model": {name: torch.zeros_like(value) for name, value in run.model.state_dict().items()}}
    load(found, checkpoint_id=checkpoints.storage.path(checkpoints.at(2)), no_dist=True)
    torch.testing.assert_close(found["model"], dict(run.model.state_dict()), rtol=0, atol=0)


def test_a_storage_that_cannot_be_written_is_told_on_closing(tmp_path: Path) -> None:
    (tmp_path / "storage").write_text("a file where a folder should be")
    checkpoints = checkpoints_in(tmp_path)
    with pytest.raises(StorageError) as caught:
        save_steps(checkpoints, 1)
    assert f"storage '{tmp_path}/storage': the checkpoint of step 1 cannot be written" in str(caught.value)
    assert "Not a directory" in str(caught.value)
    assert "storage=PATH_OR_URI" in str(caught.value)


class DivergedError(Exception):
    """What training ends with."""


def diverge(checkpoints: Checkpoints) -> None:
    with opened(checkpoints) as writer:
        save(writer, new_run(), 1)
        raise DivergedError


def test_an_error_of_training_goes_before_one_of_the_last_write(tmp_path: Path) -> None:
    (tmp_path / "storage").touch()
    with pytest.raises(DivergedError) as caught:
        diverge(checkpoints_in(tmp_path))
    (note,) = caught.value.__notes__
    assert "the checkpoint of step 1 cannot be written" in note


def save_with_a_full_disk_at_one(folder: Path) -> None:
    """The system lets the second worker write no more to a file than a full disk would."""
    checkpoints, run = checkpoints_in(folder), new_run().train(0, 1)
    said = []
    with opened(checkpoints) as writer:
        save(writer, run, 1)
        writer._wait()
        if rank() == 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails and the process lives on
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, resource.RLIM_INFINITY))
        save(writer, run.train(1, 2), 2)
        with pytest.raises(StorageError) as caught:
            save(writer, run.train(2, 3), 3)
        said.append(str(caught.value))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (folder / f"{rank()}.txt").write_text("\n".join(said))


def test_a_disk_that_is_full_for_one_worker_is_told_to_all_by_the_next_save(tmp_path: Path) -> None:
    run_together(2, save_with_a_full_disk_at_one, tmp_path)
    for worker in range(2):
        said = (tmp_path / f"{worker}.txt").read_text()
        assert "the checkpoint of step 2 cannot be written by worker 1: " in said
        assert "File too large" in said
    assert checkpoints_in(tmp_path).steps() == [1]


def killed_at(event: str, path: str, worker: int) -> None:
    """Let this process be killed the moment that it does something with such a file, if it is that worker."""

    def look(name: str, arguments: tuple[Any, ...]) -> None:
        if name == event and rank() == worker and re.search(path, str(arguments[0])):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def die_writing(folder: Path, die: Callable[[], None]) -> None:
    checkpoints = checkpoints_in(folder)
    save_steps(checkpoints, 1)
    die()
    save_steps(checkpoints, 3)


MOMENTS = {
    "when one worker begins its file": partial(killed_at, "open", r"/__1_0\.distcp$", 1),
    "when all files are there but what they hold is not written down": partial(killed_at, "open", r"/\.metadata", 0),
    "when all is there but the manifest": partial(killed_at, "open", r"/\.manifest\.json", 0),
    "when all is there but the last move": partial(killed_at, "os.rename", r"/\.step-[^/]*\.incoming$", 0),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_killed_while_it_writes_leaves_no_step_and_the_next_run_saves_it(tmp_path: Path, moment: str) -> None:
    with pytest.raises(Exception, match=r"SIGKILL|terminated"):
        run_together(2, partial(die_writing, die=MOMENTS[moment]), tmp_path)
    checkpoints = checkpoints_in(tmp_path)
    assert checkpoints.steps() == [1]
    left = [path.name for path in (tmp_path / "storage" / FOLDER).iterdir() if path.name.endswith(".incoming")]
    assert left  # it did die midway
    checkpoints.storage.discard_staged(FOLDER)
    assert [path.name for path in (tmp_path / "storage" / FOLDER).iterdir()] == ["step-00000001"]
    save_steps(checkpoints, 3)
    assert checkpoints.steps() == [1, 3]
    assert_saved(checkpoints, 3)


def die_writing_to_s3(folder: Path, storage: Storage) -> None:
    checkpoints = Checkpoints(storage, FOLDER)
    save_steps(checkpoints, 1)
    storage.__class__.commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    save_steps(checkpoints, 3)


@pytest.mark.services
def test_a_process_killed_while_it_writes_to_s3_leaves_no_step_and_what_it_left_is_discarded(
    s3: S3Server, tmp_path: Path
) -> None:
    storage = s3.storage("killed")
    assert run_alone(partial(die_writing_to_s3, storage=storage), tmp_path) == -signal.SIGKILL
    checkpoints = Checkpoints(storage, FOLDER)
    assert checkpoints.steps() == [1]
    assert storage.exists(checkpoints.at(3))
    storage.discard_staged(FOLDER)
    assert not storage.exists(checkpoints.at(3))
    assert_saved(checkpoints, 1)
    save_steps(checkpoints, 3)
    assert_saved(checkpoints, 3)
