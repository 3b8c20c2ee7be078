"""A stage that is killed from inside, at a moment that whoever watches it from outside could miss.

    python -c 'from tests.jobs.killed_stage import main; main()' MOMENT WHICH MODULE SPEC [key.path=value ...]

MOMENT is one of
    `says`    the driver, as it prints the words WHICH
    `trial`   the driver, when a trial of a search has WHICH epochs behind it
    `step`    the driver, when the first worker is about to make step WHICH
    `worker`  that worker itself, then
    `block`   the driver, when WHICH blocks of prepared rows are written
    `name`    the driver, right `before` or right `after` (WHICH) a new file of its gets its name
    `pause`   nobody; the worker that has read WHICH blocks of raw rows waits while the file `paused` is there, for
              a test to kill what it reads from
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from threading import Event
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from cluster.command import run as run_command
from cluster.storage import Storage
from jobs import prepare, raw_rows, train
from jobs.parallel.collectives import rank
from jobs.parallel.feed import StepRows
from jobs.raw_block import Part, RawBlock
from jobs.training_step import StepResult, TrainingStep
from jobs.trial_watch import TrialWatch

train_on_worker, write_block, read_block = train.train_on_worker, prepare.write_block, raw_rows._good


def end(pid: int) -> None:
    """Kill a driver, or oneself, and do nothing more."""
    os.kill(pid, signal.SIGKILL)
    Event().wait()  # until Ray ends the workers of a driver that is gone


def claimed(mark: Path) -> bool:
    """Whether this is the first of all workers of the machine to ask."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def number_of_turn(marks: Path) -> int:
    """How many of all workers have asked by now, this one included."""
    return next(number for number in count(1) if claimed(marks / str(number)))


def name_until(staged: str, name: str, link: Callable[[str, str], None], when: str) -> None:
    """Give a file its name in a folder of this machine."""
    if when == "after":
        link(staged, name)
    end(os.getpid())


def say_until(text: str, say: Callable[[str], int], words: str) -> int:
    """Write to the driver's output."""
    num_written = say(text)
    if words in text:
        sys.stdout.flush()
        end(os.getpid())
    return num_written


def watch_until(num_epochs: int) -> None:
    """End the driver where Ray Tune tells it of that epoch of a trial, and it has written that down."""
    note: Callable[..., None] = TrialWatch.on_trial_result

    def noted(watch: TrialWatch, **told: Any) -> None:
        note(watch, **told)
        if told["result"]["num_epochs"] == num_epochs:
            end(os.getpid())

    TrialWatch.on_trial_result = noted  # type: ignore[assignment,method-assign]


def train_until(settings: dict[str, Any], last: int, driver: int | None, marks: Path) -> str | None:
    """What Ray Train calls on every worker."""
    take: Callable[..., StepResult] = TrainingStep.__call__

    def taken(step: TrainingStep, rows: StepRows, number: int, wants_norm: bool) -> StepResult:
        if number == last and rank() == 0 and claimed(marks / "step"):
            end(driver or os.getpid())
        return take(step, rows, number, wants_norm)

    with patch.object(TrainingStep, "__call__", taken):
        return train_on_worker(settings)


def write_until(
    storage: Storage, folder: str, rows: dict[str, pa.Table], number: int, last: int, driver: int, marks: Path
) -> dict[str, str]:
    """What writes a block, on a worker."""
    written = write_block(storage, folder, rows, number)
    if number_of_turn(marks) == last:
        end(driver)
    return written


def read_until(table: raw_rows.RawTable, part: Part, number: int, block: RawBlock, last: int, marks: Path) -> pa.Table:
    """What checks a block that was read, on a worker."""
    rows = read_block(table, part, number, block)
    if number_of_turn(marks) == last:
        (marks / "paused").touch()
        while (marks / "paused").exists():
            time.sleep(0.05)
    return rows


def main() -> None:
    """Run the stage until its moment comes."""
    moment, which, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    driver, marks = os.getpid(), Path(mkdtemp(dir=Path(arguments[0]).parent))
    if moment == "says":
        sys.stdout.write = partial(say_until, say=sys.stdout.write, words=which)  # type: ignore[method-assign]
    elif moment == "name":
        os.link = partial(name_until, link=os.link, when=which)  # type: ignore[assignment]
    elif moment == "trial":
        watch_until(int(which))
    elif moment == "pause":
        raw_rows._good = partial(read_until, last=int(which), marks=marks)
    elif moment == "block":
        prepare.write_block = partial(write_until, last=int(which), driver=driver, marks=marks)
    else:
        whose = driver if moment == "step" else None
        train.train_on_worker = partial(train_until, last=int(which), driver=whose, marks=marks)
    run_command(import_module(module).main)
