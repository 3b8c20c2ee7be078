"""Every step of every worker, written down in files: which rows it was, and what its loss came to."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from unittest.mock import patch

from cluster.scaling import is_to_stop
from jobs.parallel.collectives import from_first, rank, world_size
from jobs.parallel.feed import StepRows
from jobs.training_step import StepResult, TrainingStep
from jobs.workloads.chain import Batch

SLOW_S, LOOK_S = 0.2, 0.05
"""Added to each of the first steps of a start, as many as the file `slow` says; and between looks after those."""


@dataclass(frozen=True)
class Step:
    """What the workers of a start noted of a step."""

    number: int
    """From 0 on, over all epochs."""
    rows: tuple[tuple[str, ...], ...]
    """By rank; a row is a digest of its values."""
    loss: float
    """Mean over the rows of the global batch."""
    largest_pass: int


@dataclass(frozen=True)
class NotedStart:
    """Workers that started together."""

    workers: int
    steps: tuple[Step, ...]
    """That all of them came to the end of."""
    begun_s: float
    """When the first of these ended, by the clock."""
    ended_s: float


@contextmanager
def written_down(folder: Path) -> Iterator[None]:
    """Write each step of this process below `folder`, a file for each. As long as there is `slow` there, go slowly.

    After its first steps a start stands still until it is asked to stop. So training is still under way when what is
    to happen to it happens, however long that takes to come.
    """
    start, workers = from_first(time.time_ns()), world_size()
    steps = folder / "steps"
    steps.mkdir(exist_ok=True)
    take: Callable[..., StepResult] = TrainingStep.__call__
    made = count()

    def noted(step: TrainingStep, rows: StepRows, number: int, wants_norm: bool) -> StepResult:
        result = take(step, rows, number, wants_norm)
        note = {
            "rows": [digest for batch in rows.passes for digest in digests(batch)],
            "loss": float(step._parted.summed(result.summed_loss)) / rows.num_rows,
            "largest_pass": max(len(batch["weight"]) for batch in rows.passes),
        }
        (steps / f"{start}-{workers}-{number}-{rank()}").write_text(json.dumps(note))
        with suppress(FileNotFoundError):
            if next(made) < int((folder / "slow").read_text()):
                time.sleep(SLOW_S)
            elif rank() == 0:  # the others wait for it in the next step
                while (folder / "slow").exists() and not is_to_stop():
                    time.sleep(LOOK_S)
        return result

    with patch.object(TrainingStep, "__call__", noted):
        yield


def digests(batch: Batch) -> list[str]:
    """Of the values of each row that counts."""
    num_rows = len(batch["weight"])
    names = sorted(name for name in batch if name not in ("weight", "key") and len(batch[name]) == num_rows)
    values = [batch[name].numpy() for name in names]
    return [
        hashlib.blake2b(b"".join(each[row].tobytes() for each in values), digest_size=8).hexdigest()
        for row in range(num_rows)
        if batch["weight"][row] > 0
    ]


def noted_starts(folder: Path) -> list[NotedStart]:
    """All starts, in their order."""
    found: dict[tuple[int, int], dict[int, dict[int, Path]]] = {}
    for path in (folder / "steps").iterdir():
        start, workers, number, of_rank = map(int, path.name.split("-"))
        found.setdefault((start, workers), {}).setdefault(number, {})[of_rank] = path
    return [_start(workers, found[start, workers]) for start, workers in sorted(found)]


def _start(workers: int, files: dict[int, dict[int, Path]]) -> NotedStart:
    whole = {number: by_rank for number, by_rank in sorted(files.items()) if len(by_rank) == workers}
    times = [path.stat().st_mtime for by_rank in whole.values() for path in by_rank.values()]
    steps = tuple(_step(number, by_rank) for number, by_rank in whole.items())
    return NotedStart(workers, steps, min(times, default=0.0), max(times, default=0.0))


def _step(number: int, by_rank: dict[int, Path]) -> Step:
    notes = [json.loads(by_rank[each].read_text()) for each in sorted(by_rank)]
    rows = tuple(tuple(note["rows"]) for note in notes)
    return Step(number, rows, notes[0]["loss"], max(note["largest_pass"] for note in notes))


def last_of_each(starts: list[NotedStart]) -> dict[int, Step]:
    """Each step as it was made last: one that others made once more, from a checkpoint before it, does not count."""
    return {step.number: step for start in starts for step in start.steps}
