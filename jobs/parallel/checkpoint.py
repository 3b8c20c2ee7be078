"""Checkpoints: torch.distributed.checkpoint files that appear all at once and are found again after any death.

checkpoints/<name>/<key>/step-00000480/     weights and optimizer, one file a rank; manifest.json

Saved on any layout, loaded on any other: tensors go by the names that they have in the whole model.
No random state is saved: every draw (sample order, negatives, dropout) is a pure function of seed, step and purpose.
"""

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.optim import Optimizer

from cluster.errors import StorageError
from cluster.storage import Storage
from jobs.parallel.checkpoint_reader import CheckpointReader
from jobs.parallel.checkpoint_state import (
    AVERAGE,
    State,
    put_state,
    saved_weights,
    state_to_fill,
    weights_to_fill,
)

PREFIX = "step-"


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int = 0
    """Global batches done, over all epochs; the next sample follows from it."""
    best_value: float | None = None
    """Of the metric that is watched."""
    best_step: int = 0
    epochs_without_better: int = 0
    epoch_loss: float = 0.0
    """Summed over the rows that the epoch has trained on so far; 0 between epochs."""
    stopped: bool = False
    """Whether training came to its end."""
    loss_scale: float | None = None
    """Of fp16; None where the loss is not scaled."""


@dataclass(frozen=True)
class Origin:
    """What a checkpoint was made by."""

    spec: str
    """The resolved spec, as YAML."""
    layout: str
    """In a few words."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run. `CheckpointWriter` adds to them."""

    storage: Storage
    folder: str

    def steps(self) -> list[int]:
        """The steps that have a whole checkpoint, in order."""
        names = self.storage.folders(self.folder)
        return sorted(int(name.removeprefix(PREFIX)) for name in names if name.startswith(PREFIX))

    def progress(self, step: int) -> Progress:
        """What the run knew at a step's checkpoint."""
        return Progress(**self.storage.manifest(self.at(step))["progress"])

    def origin(self, step: int) -> Origin:
        """What a step's checkpoint was made by."""
        return Origin(**self.storage.manifest(self.at(step))["origin"])

    def load(self, step: int, model: nn.Module, optimizer: Optimizer) -> Progress:
        """Put a step's state into what this worker holds of the model, and into its optimizer. All ranks call it.

        Raises:
            StorageError: the checkpoint cannot be read; on every rank where one of them could not.
        """
        with storage_errors(self.storage, f"the checkpoint of step {step} cannot be read"):
            reader = CheckpointReader(self.storage, self.at(step))
            state = state_to_fill(model, reader.metadata)
            _load(dict(state), reader, alone=not dist.is_initialized())
            put_state(model, optimizer, state)
            return self.progress(step)

    def load_weights(self, step: int, model: nn.Module) -> None:
        """Put a step's weights into a whole model: their moving averages where the run keeps them.

        In one process, whether it has a process group or not.

        Raises:
            StorageError: the checkpoint cannot be read.
        """
        with storage_errors(self.storage, f"the checkpoint of step {step} cannot be read"):
            reader = CheckpointReader(self.storage, self.at(step))
            _load(dict(weights_to_fill(model, reader.metadata)), reader, alone=True)

    def shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shape of each of a step's weights.

        Raises:
            StorageError: the checkpoint cannot be read.
        """
        with storage_errors(self.storage, f"the checkpoint of step {step} cannot be read"):
            state = saved_weights(CheckpointReader(self.storage, self.at(step)).metadata, "meta")
        return {name: tuple(weight.shape) for name, weight in _by_name(state).items()}

    def read_weights(self, step: int, names: Collection[str]) -> dict[str, Tensor]:
        """These of a step's weights, whole: their moving averages where the run keeps them. In one process.

        Raises:
            StorageError: the checkpoint cannot be read.
        """
        with storage_errors(self.storage, f"the checkpoint of step {step} cannot be read"):
            reader = CheckpointReader(self.storage, self.at(step))
            state = saved_weights(reader.metadata, "cpu")
            wanted: dict[str, Any] = {
                part: {name: value for name, value in kept.items() if name in names}
                for part, kept in (("model", state["model"]), ("optimizer", state["optimizer"]))
            }
            _load(wanted, reader, alone=True)
        return {name: weight for name, weight in _by_name(state).items() if name in names}

    def publish(self, staged: str, progress: Progress, origin: Origin, keep: int) -> None:
        """Make what was staged the checkpoint of `progress.step`, then prune to the newest `keep` and the best."""
        manifest = {"progress": asdict(progress), "origin": asdict(origin)}
        self.storage.commit(staged, self.at(progress.step), manifest)
        for step in self.steps()[:-keep]:
            if step != progress.best_step:
                self.storage.remove(self.at(step))

    def hand_over(self, step: int, other: "Checkpoints") -> None:
        """Copy a step's checkpoint, and the best one that it knows of, for another run to go on from, on any layout.

        Its epochs without a better value are counted anew. The step's own checkpoint appears last, so that whoever
        finds it has all; called again, this goes on where it was.
        """
        progress = self.progress(step)
        self.storage.discard_staged(other.folder)
        if progress.best_value is not None and progress.best_step != step:
            self.storage.copy(
                self.at(progress.best_step),
                other.at(progress.best_step),
                self.storage.manifest(self.at(progress.best_step)),
            )
        begins = {"progress": asdict(replace(progress, epochs_without_better=0))}
        self.storage.copy(self.at(step), other.at(step), {**self.storage.manifest(self.at(step)), **begins})

    def at(self, step: int) -> str:
        """The folder of a step's checkpoint."""
        return f"{self.folder}/{PREFIX}{step:08d}"


@contextmanager
def storage_errors(storage: Storage, what: str) -> Iterator[None]:
    """Make a StorageError of what goes wrong with the storage, on this worker or on another that told it.

    Args:
        what: went wrong: "the checkpoint of step 3 cannot be read".
    """
    try:
        yield
    except OSError as error:
        raise StorageError(_advice(storage, what, error)) from error
    except CheckpointException as error:  # no Exception, so that nobody else would catch it
        for worker, (cause, _) in error.failures.items():
            if isinstance(cause, OSError):
                raise StorageError(_advice(storage, f"{what} by worker {worker}", cause)) from error
        raise RuntimeError(f"{what}: {error}") from error


def _by_name(state: State) -> dict[str, Tensor]:
    """The weights in what `saved_weights` made."""
    return state["model"] | {name: kept[AVERAGE] for name, kept in state["optimizer"].items()}


def _advice(storage: Storage, what: str, cause: OSError) -> str:
    return f"storage '{storage.uri}': {what}: {cause}. Mend it there, or give another: storage=PATH_OR_URI"


def _load(state: dict[str, Any], reader: CheckpointReader, alone: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is what is wanted
        load(state, storage_reader=reader, no_dist=alone)
