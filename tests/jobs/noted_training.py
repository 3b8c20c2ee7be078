"""`jobs.train`, of which every step of every worker is written down."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jobs import train
from tests.jobs.noted_steps import written_down

train_on_worker = train.train_on_worker


def noting_worker(settings: dict[str, Any], folder: Path) -> str | None:
    """What Ray Train calls on every worker."""
    with written_down(folder):
        return train_on_worker(settings)


def main(folder: Path, arguments: Sequence[str]) -> int:
    """Train, writing down what `noted_steps` does below the folder."""
    train.train_on_worker = partial(noting_worker, folder=folder)
    return train.main(arguments)
