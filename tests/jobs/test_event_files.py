import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.storage import Storage
from jobs.event_files import EventFiles

ADD_AND_DIE = """
import os, signal, sys
from cluster.storage import Storage
from jobs.event_files import EventFiles
with EventFiles(Storage(sys.argv[1]), "run") as events:
    events.add({"loss": 0.5}, 1)
    events.add({"loss": 0.25}, 2)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def shown(storage: Storage) -> dict[str, list[tuple[int, float]]]:
    """Every scalar's steps and values, the way TensorBoard reads the folder."""
    accumulator = EventAccumulator(storage.path("run"))
    accumulator.Reload()
    names = accumulator.Tags()["scalars"]
    return {name: [(event.step, event.value) for event in accumulator.Scalars(name)] for name in names}


def values_of(path: str) -> list[float]:
    accumulator = EventAccumulator(path)
    accumulator.Reload()
    return [event.value for event in accumulator.Scalars("loss")]


def test_tensorboard_reads_back_every_scalar_by_name_and_step(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with EventFiles(storage, "run") as events:
        events.add({"train/loss": 0.5, "valid/rmse": 2.0}, 10)
        events.add({"train/loss": 0.25, "valid/rmse": 1.5}, 20)
    assert shown(storage) == {"train/loss": [(10, 0.5), (20, 0.25)], "valid/rmse": [(10, 2.0), (20, 1.5)]}


def test_what_was_added_shows_while_the_run_goes_on(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with EventFiles(storage, "run") as events:
        events.add({"loss": 0.5}, 1)
        assert shown(storage) == {"loss": [(1, 0.5)]}


def test_a_killed_process_keeps_what_it_had_added(tmp_path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", ADD_AND_DIE, str(tmp_path)], timeout=300, check=False)
    assert died.returncode == -signal.SIGKILL
    assert shown(Storage(str(tmp_path))) == {"loss": [(1, 0.5), (2, 0.25)]}


def test_a_run_that_goes_on_at_once_keeps_the_scalars_from_before(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for step in (1, 2, 3):
        with EventFiles(storage, "run") as events:
            events.add({"loss": step / 2}, step)
    assert len(storage.files("run")) == 3
    assert sorted(value for path in storage.files("run") for value in values_of(path.path)) == [0.5, 1.0, 1.5]


@pytest.mark.parametrize("steps", [(), (1, 2)])
def test_a_worker_that_is_not_to_write_writes_nothing(tmp_path: Path, steps: tuple[int, ...]) -> None:
    with EventFiles(Storage(str(tmp_path)), "run", enabled=False) as events:
        for step in steps:
            events.add({"loss": 0.5}, step)
    assert not list(tmp_path.iterdir())
