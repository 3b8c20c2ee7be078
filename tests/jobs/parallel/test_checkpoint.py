import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

from cluster.storage import Storage
from jobs.parallel.checkpoint import Checkpoints, Progress
from jobs.parallel.replicate import mean_over_batch, num_replicas, rank, replicate
from jobs.parallel.sample_order import replica_rows, step_generator
from tests.jobs.parallel.workers import run_alone, run_together

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

RUN = "checkpoints/films/0123"
BATCH_ROWS = 5
OPTIMIZERS = ["adamw", "adam", "momentum", "sgd"]
PROGRESS = Progress(step=3, best_value=0.1 + 0.2, best_step=3, epochs_without_better=1)


class ObjectStorage(Storage):
    """A storage without renames: what is staged lies where it will be published, and the manifest makes it seen."""

    @property
    def is_local(self) -> bool:
        return False


class DiesUploading(Storage):
    """Ends its process when a part of the files is there."""

    def upload(self, source: Path, folder: str) -> None:
        name = min(path.name for path in source.iterdir())
        self.filesystem.create_dir(self.path(folder))
        Path(self.path(folder), name).write_bytes((source / name).read_bytes()[:100])
        os.kill(os.getpid(), signal.SIGKILL)


class DiesPublishing(Storage):
    """Ends its process when all is there but the last move."""

    def _rename(self, source: str, target: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Run:
    """A model in training."""

    model: nn.Sequential
    replicated: nn.Module
    optimizer: Optimizer

    def train(self, first: int, last: int) -> "Run":
        """Take the steps from `first` up to, but not including, `last`."""
        for step in range(first, last):
            draw = step_generator(0, step, "rows")
            features, wanted = torch.randn(BATCH_ROWS, 4, generator=draw), torch.randn(BATCH_ROWS, generator=draw)
            mine = torch.from_numpy(replica_rows(torch.arange(BATCH_ROWS).numpy(), rank(), num_replicas()))
            guessed = self.replicated(features[mine]).squeeze(-1)
            self.optimizer.zero_grad()
            mean_over_batch(F.mse_loss(guessed, wanted[mine], reduction="sum"), BATCH_ROWS).backward()
            self.optimizer.step()
        return self

    def state(self) -> dict[str, Tensor]:
        """Every number of the model and the optimizer."""
        states = self.optimizer.state_dict()["state"]
        kept = {f"{i}.{name}": value for i, state in states.items() for name, value in state.items()}
        return {**self.model.state_dict(), **{name: value for name, value in kept.items() if value is not None}}


def new_run(optimizer: str, seed: int = 0) -> Run:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    model.eval()  # a replica may have one row; the running statistics are state all the same
    parameters = list(model.parameters())
    optimizers = {
        "adamw": partial(AdamW, parameters, lr=0.1, weight_decay=0.1),
        "adam": partial(Adam, parameters, lr=0.1),
        "momentum": partial(SGD, parameters, lr=0.01, momentum=0.9),
        "sgd": partial(SGD, parameters, lr=0.01),
    }
    return Run(model, replicate(model), optimizers[optimizer]())


def checkpoints_in(folder: Path, kind: type[Storage] = Storage) -> Checkpoints:
    return Checkpoints(kind(str(folder)), RUN)


def assert_equal(one: Run, other: Run) -> None:
    torch.testing.assert_close(one.state(), other.state(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [Storage, ObjectStorage])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_loaded_equals_what_was_saved_bit_for_bit(tmp_path: Path, optimizer: str, kind: type[Storage]) -> None:
    run, other = new_run(optimizer).train(0, 3), new_run(optimizer, seed=1)
    checkpoints_in(tmp_path, kind).save(run.model, run.optimizer, PROGRESS, keep=2)
    assert checkpoints_in(tmp_path, kind).load(3, other.model, other.optimizer) == PROGRESS
    assert_equal(other, run)


def test_the_settings_of_the_optimizer_are_loaded_too(tmp_path: Path) -> None:
    run, other = new_run("momentum").train(0, 3), new_run("momentum", seed=1)
    run.optimizer.param_groups[0].update(lr=0.125, momentum=0.5)
    checkpoints_in(tmp_path).save(run.model, run.optimizer, PROGRESS, keep=2)
    checkpoints_in(tmp_path).load(3, other.model, other.optimizer)
    assert [other.optimizer.param_groups[0][name] for name in ("lr", "momentum")] == [0.125, 0.5]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(tmp_path: Path, optimizer: str) -> None:
    run = new_run(optimizer).train(0, 3)
    checkpoints_in(tmp_path).save(run.model, run.optimizer, PROGRESS, keep=2)
    again = new_run(optimizer, seed=1)
    checkpoints_in(tmp_path).load(3, again.model, again.optimizer)
    assert_equal(again.train(3, 8), new_run(optimizer).train(0, 8))


def test_saving_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    run = new_run("adamw").train(0, 3)
    checkpoints_in(tmp_path).save(run.model, run.optimizer, PROGRESS, keep=2)
    assert_equal(run.train(3, 5), new_run("adamw").train(0, 5))


def test_layers_that_are_not_trained_come_back_too(tmp_path: Path) -> None:
    run, other = new_run("adamw"), new_run("adamw", seed=1)
    for frozen in (run, other):
        frozen.model[0].requires_grad_(False)
    checkpoints_in(tmp_path).save(run.train(0, 3).model, run.optimizer, PROGRESS, keep=2)
    checkpoints_in(tmp_path).load(3, other.model, other.optimizer)
    assert_equal(other, run)


@pytest.mark.parametrize("kind", [Storage, ObjectStorage])
def test_weights_alone_load_into_a_model_without_its_optimizer(tmp_path: Path, kind: type[Storage]) -> None:
    run, other = new_run("adamw").train(0, 3), new_run("adamw", seed=1)
    checkpoints_in(tmp_path, kind).save(run.model, run.optimizer, PROGRESS, keep=2)
    checkpoints_in(tmp_path, kind).load_weights(3, other.model)
    torch.testing.assert_close(other.model.state_dict(), run.model.state_dict(), rtol=0, atol=0)


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    run, checkpoints = new_run("adamw"), checkpoints_in(tmp_path)
    for step in range(1, 8):
        progress = Progress(step=step, best_value=0.5, best_step=min(step, 2))
        checkpoints.save(run.model, run.optimizer, progress, keep=2)
    assert checkpoints.steps() == [2, 6, 7]
    assert checkpoints.progress(6) == Progress(step=6, best_value=0.5, best_step=2)


def test_steps_are_in_the_order_of_their_numbers_and_other_folders_are_none(tmp_path: Path) -> None:
    run, checkpoints = new_run("sgd"), checkpoints_in(tmp_path)
    for step in (100_000_000, 99_999_999, 5):
        checkpoints.save(run.model, run.optimizer, Progress(step=step), keep=9)
    (tmp_path / RUN / "tensorboard").mkdir()
    assert checkpoints.steps() == [5, 99_999_999, 100_000_000]


def test_a_run_without_checkpoints_has_no_steps(tmp_path: Path) -> None:
    assert checkpoints_in(tmp_path).steps() == []


def save_in(folder: Path, kind: type[Storage], step: int) -> None:
    run = new_run("adamw").train(0, step)
    checkpoints_in(folder, kind).save(run.model, run.optimizer, Progress(step=step), keep=2)


@pytest.mark.parametrize("kind", [DiesUploading, DiesPublishing])
def test_a_process_killed_while_it_saves_leaves_no_step_and_the_next_save_works(
    tmp_path: Path, kind: type[Storage]
) -> None:
    save_in(tmp_path, Storage, 1)
    assert run_alone(partial(save_in, kind=kind, step=3), tmp_path) == -signal.SIGKILL
    assert any(".incoming" in path.name for path in (tmp_path / RUN).iterdir())  # it did die midway
    checkpoints = checkpoints_in(tmp_path)
    assert checkpoints.steps() == [1]
    save_in(tmp_path, Storage, 3)
    assert checkpoints.steps() == [1, 3]
    again = new_run("adamw", seed=1)
    checkpoints.load(3, again.model, again.optimizer)
    assert_equal(again, new_run("adamw").train(0, 3))


def test_a_half_written_step_on_object_storage_is_unseen_and_saved_over(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path, ObjectStorage)
    left = tmp_path / RUN / "step-00000003"
    left.mkdir(parents=True)
    (left / "__9_0.distcp").write_bytes(b"half")
    assert checkpoints.steps() == []
    save_in(tmp_path, ObjectStorage, 3)
    assert checkpoints.steps() == [3]
    assert not (left / "__9_0.distcp").exists()


def save_and_load_on_two(folder: Path) -> None:
    """Save what two trained, go on from what one saved, and note both outcomes."""
    run = new_run("adamw").train(0, 3)
    checkpoints_in(folder / "of two").save(run.model, run.optimizer, PROGRESS, keep=2)
    torch.save(run.state(), folder / f"saved-{rank()}.pt")
    torch.save(run.train(3, 8).state(), folder / f"undisturbed-{rank()}.pt")
    for origin in ("of one", "of two"):
        again = new_run("adamw", seed=1)
        progress = checkpoints_in(folder / origin).load(3, again.model, again.optimizer)
        torch.save(again.state(), folder / f"loaded {origin}-{rank()}.pt")
        torch.save(again.train(progress.step, 8).state(), folder / f"continued {origin}-{rank()}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two workers and one process each saved and loaded."""
    folder = tmp_path_factory.mktemp("two")
    run = new_run("adamw").train(0, 3)
    checkpoints_in(folder / "of one").save(run.model, run.optimizer, PROGRESS, keep=2)
    run_together(2, save_and_load_on_two, folder)
    return folder


def assert_states_equal(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 0) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("worker", [0, 1])
def test_one_process_loads_what_two_have_saved(two: Path, worker: int) -> None:
    run = new_run("adamw", seed=1)
    assert checkpoints_in(two / "of two").load(3, run.model, run.optimizer) == PROGRESS
    assert_states_equal(run.state(), torch.load(two / f"saved-{worker}.pt"))


@pytest.mark.parametrize("worker", [0, 1])
def test_two_workers_load_what_one_process_has_saved(two: Path, worker: int) -> None:
    assert_states_equal(torch.load(two / f"loaded of one-{worker}.pt"), new_run("adamw").train(0, 3).state())


@pytest.mark.parametrize("worker", [0, 1])
def test_two_workers_go_on_from_their_checkpoint_bit_for_bit(two: Path, worker: int) -> None:
    undisturbed = torch.load(two / f"undisturbed-{worker}.pt")
    assert_states_equal(torch.load(two / f"continued of two-{worker}.pt"), undisturbed)


@pytest.mark.parametrize("worker", [0, 1])
def test_a_run_goes_on_over_another_number_of_workers_to_the_same_end(two: Path, worker: int) -> None:
    in_one_process = new_run("adamw").train(0, 8).state()
    assert_states_equal(torch.load(two / f"continued of one-{worker}.pt"), in_one_process, tolerance=1e-5)
    alone = new_run("adamw", seed=1)
    checkpoints_in(two / "of two").load(3, alone.model, alone.optimizer)
    assert_states_equal(alone.train(3, 8).state(), in_one_process, tolerance=1e-5)


def test_the_workers_agree_on_every_number(two: Path) -> None:
    assert_states_equal(torch.load(two / "undisturbed-0.pt"), torch.load(two / "undisturbed-1.pt"))
