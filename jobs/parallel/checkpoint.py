"""Checkpoints: torch.distributed.checkpoint files that appear all at once, found again after any death.

checkpoints/<name>/<key>/step-00000480/     weights, optimizer and progress; one file a rank
"""

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from cluster.storage import Storage
from jobs.parallel.replicate import from_first, rank

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int = 0
    """Global batches done, over all epochs; the next sample follows from it."""
    best_value: float | None = None
    """Of the metric that is watched."""
    best_step: int = 0
    epochs_without_better: int = 0
    stopped: bool = False
    """Whether training came to its end."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run."""

    storage: Storage
    folder: str

    def steps(self) -> list[int]:
        """The steps that have a whole checkpoint, in order."""
        names = self.storage.folders(self.folder)
        return sorted(int(name.removeprefix("step-")) for name in names if name.startswith("step-"))

    def progress(self, step: int) -> Progress:
        """What the run knew at a step's checkpoint."""
        return Progress(**self.storage.manifest(self._at(step))["progress"])

    def save(self, model: nn.Module, optimizer: Optimizer, progress: Progress, keep: int) -> None:
        """Write the checkpoint of `progress.step`, then prune to the newest `keep` and the best. All ranks call it.

        Not before the first step: torch fills an optimizer's empty state by a step of its own, which Adam counts.
        """
        staged = from_first(self.storage.stage(self._at(progress.step)) if rank() == 0 else "")
        with TemporaryDirectory() as scratch:
            save(_state(model, optimizer), checkpoint_id=scratch)
            self.storage.upload(Path(scratch), staged)
        _wait_for_all()
        if rank() == 0:
            self.storage.commit(staged, self._at(progress.step), {"progress": asdict(progress)})
            self._prune(progress, keep)

    def load(self, step: int, model: nn.Module, optimizer: Optimizer) -> Progress:
        """Put a step's state into the model and optimizer. All ranks call it."""
        state = _state(model, optimizer)
        with self.storage.as_local(self._at(step)) as local:
            load(state, checkpoint_id=str(local))
        set_model_state_dict(model, state["model"])
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=FLAT)
        return self.progress(step)

    def load_weights(self, step: int, model: nn.Module) -> None:
        """Put a step's weights alone into a model, in one process."""
        state = {"model": get_model_state_dict(model)}
        with self.storage.as_local(self._at(step)) as local, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is what is wanted
            load(state, checkpoint_id=str(local), no_dist=True)
        set_model_state_dict(model, state["model"])

    def _prune(self, progress: Progress, keep: int) -> None:
        for step in self.steps()[:-keep]:
            if step != progress.best_step:
                self.storage.remove(self._at(step))

    def _at(self, step: int) -> str:
        return f"{self.folder}/step-{step:08d}"


def _state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=FLAT),
    }


def _wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()
