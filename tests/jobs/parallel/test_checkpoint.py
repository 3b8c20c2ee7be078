"""Any layout to any layout, on a local path and on S3, with real processes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cluster.errors import StorageError
from cluster.storage import Storage
from jobs.parallel.checkpoint import Checkpoints, Origin, Progress
from jobs.parallel.checkpoint_state import AVERAGE
from jobs.parallel.checkpoint_writer import CheckpointWriter
from jobs.parallel.collectives import rank
from tests.jobs.parallel.parted_run import LAYOUTS, Run, look, new_run
from tests.jobs.parallel.workers import run_together
from tests.s3 import S3Server

PROGRESS = Progress(step=3, best_value=0.1 + 0.2, best_step=3, epochs_without_better=1, loss_scale=1024.0)
ORIGIN = Origin(spec="name: films\n", layout="shard=2")
PLAIN = ("alone", "tensor 2", "pipeline 2", "shard 4")
PAIRS = [(saved, loaded) for saved, loaded in product(LAYOUTS, repeat=2) if saved in PLAIN or loaded in PLAIN]
PAIRS_ON_S3 = list(product(PLAIN, repeat=2))


def checkpoints_of(layout: str, storage: Storage) -> Checkpoints:
    return Checkpoints(storage, f"checkpoints/{layout.replace(' ', '-')}")


def write(checkpoints: Checkpoints, run: Run, progress: Progress = PROGRESS, keep: int = 2) -> None:
    with CheckpointWriter(checkpoints, keep, ORIGIN) as writer:
        writer.save(run.model, run.optimizer, progress)


def save_on(folder: Path, storage: Storage, layouts: Sequence[str]) -> None:
    """On each of the layouts: train and save."""
    for layout in layouts:
        run = new_run(layout).train(0, 3)
        look(run)
        write(checkpoints_of(layout, storage), run)


def load_on(folder: Path, storage: Storage, layouts: Sequence[str], pairs: Sequence[tuple[str, str]]) -> None:
    """On each of the layouts: load what the others have saved, go on from there, and note where that led."""
    for saved, loaded in pairs:
        if loaded in layouts:
            run = new_run(loaded, seed=1)
            progress = checkpoints_of(saved, storage).load(3, run.model, run.optimizer)
            assert progress == PROGRESS
            torch.save(run.train(3, 5).state(), folder / f"{saved} to {loaded} {rank()}.pt")


def pass_on(pairs: Sequence[tuple[str, str]], storage: Storage, folder: Path) -> Path:
    """Save on one layout of each pair and load on the other; returns the folder with what that led to."""
    used = {layout for pair in pairs for layout in pair}
    for work in (save_on, partial(load_on, pairs=pairs)):
        for num_workers in sorted(set(LAYOUTS.values())):
            layouts = [layout for layout, needed in LAYOUTS.items() if needed == num_workers and layout in used]
            run_together(num_workers, partial(work, storage=storage, layouts=layouts), folder)
    return folder


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = Storage(str(tmp_path_factory.mktemp("storage")))
    return pass_on(PAIRS, storage, tmp_path_factory.mktemp("noted"))


@pytest.fixture(scope="module")
def on_s3(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pass_on(PAIRS_ON_S3, s3.storage("any-to-any"), tmp_path_factory.mktemp("noted"))


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 0) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def assert_went_on(folder: Path, saved: str, loaded: str) -> None:
    """Each worker had its part of where one process would have come to without a stop, and together they had all."""
    expected = new_run().train(0, 5).state()
    seen = set()
    for worker in range(LAYOUTS[loaded]):
        found = torch.load(folder / f"{saved} to {loaded} {worker}.pt")
        assert_same(found, {name: expected[name] for name in found}, tolerance=1e-6)
        seen |= set(found)
    assert seen == set(expected)


@pytest.mark.parametrize(("saved", "loaded"), PAIRS)
def test_any_layout_goes_on_where_any_other_was_saved(on_disk: Path, saved: str, loaded: str) -> None:
    assert_went_on(on_disk, saved, loaded)


@pytest.mark.services
@pytest.mark.parametrize(("saved", "loaded"), PAIRS_ON_S3)
def test_any_layout_goes_on_where_any_other_was_saved_on_s3(on_s3: Path, saved: str, loaded: str) -> None:
    assert_went_on(on_s3, saved, loaded)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(Storage(str(tmp_path / "storage")), "checkpoints/films/0123")


def test_a_checkpoint_says_where_the_run_stood_and_what_made_it(checkpoints: Checkpoints) -> None:
    write(checkpoints, new_run().train(0, 3))
    assert checkpoints.progress(3) == PROGRESS
    assert checkpoints.origin(3) == ORIGIN


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "momentum", "sgd"])
def test_training_goes_on_bit_for_bit_with_any_optimizer_also_from_its_very_start(
    checkpoints: Checkpoints, optimizer: str, steps_before: int
) -> None:
    run, again = new_run(optimizer=optimizer).train(0, steps_before), new_run(optimizer=optimizer, seed=1).train(0, 2)
    write(checkpoints, run, Progress(step=steps_before))
    checkpoints.load(steps_before, again.model, again.optimizer)
    assert_same(again.state(), run.state())
    undisturbed = new_run(optimizer=optimizer).train(0, 8)
    assert_same(again.train(steps_before, 8).state(), undisturbed.state())


def test_weights_alone_load_into_a_model_without_its_optimizer(checkpoints: Checkpoints) -> None:
    run, other = new_run().train(0, 3), new_run(seed=1)
    write(checkpoints, run)
    checkpoints.load_weights(3, other.model)
    assert_same(other.model.state_dict(), run.model.state_dict())


def test_weights_that_have_an_average_load_as_that(checkpoints: Checkpoints) -> None:
    run, other = new_run().train(0, 3), new_run(seed=1)
    name, averaged = next(iter(run.model.named_parameters()))
    run.optimizer.state[averaged][AVERAGE] = torch.full_like(averaged, 0.25)
    write(checkpoints, run)
    checkpoints.load_weights(3, other.model)
    expected = {**run.model.state_dict(), name: torch.full_like(averaged, 0.25)}
    assert_same(other.model.state_dict(), expected)


def test_some_weights_are_read_without_a_model_averages_where_there_are_any(checkpoints: Checkpoints) -> None:
    run = new_run().train(0, 3)
    whole = dict(run.model.state_dict())
    averaged = "first.layer.weight"
    run.optimizer.state[run.model["first"].layer.weight][AVERAGE] = torch.full_like(whole[averaged], 0.25)  # type: ignore[index,union-attr]
    write(checkpoints, run)
    assert checkpoints.shapes(3) == {name: tuple(weight.shape) for name, weight in whole.items()}
    found = checkpoints.read_weights(3, [averaged, "last.layer.bias"])
    assert_same(found, {averaged: torch.full_like(whole[averaged], 0.25), "last.layer.bias": whole["last.layer.bias"]})


def test_the_newest_and_the_best_stay(checkpoints: Checkpoints) -> None:
    run = new_run()
    with CheckpointWriter(checkpoints, 2, ORIGIN) as writer:
        for step in range(1, 8):
            writer.save(run.model, run.optimizer, Progress(step=step, best_value=0.5, best_step=min(step, 2)))
    assert checkpoints.steps() == [2, 6, 7]
    assert checkpoints.progress(6) == Progress(step=6, best_value=0.5, best_step=2)


def test_steps_are_in_the_order_of_their_numbers_and_other_folders_are_none(checkpoints: Checkpoints) -> None:
    run = new_run("alone", "sgd")
    for step in (100_000_000, 99_999_999, 5):
        write(checkpoints, run, Progress(step=step), keep=9)
    Path(checkpoints.storage.path(f"{checkpoints.folder}/tensorboard")).mkdir()
    assert checkpoints.steps() == [5, 99_999_999, 100_000_000]


def test_a_run_without_checkpoints_has_no_steps(checkpoints: Checkpoints) -> None:
    assert checkpoints.steps() == []


def test_a_checkpoint_that_cannot_be_read_is_told_with_its_storage_and_the_way_out(checkpoints: Checkpoints) -> None:
    run = new_run().train(0, 3)
    write(checkpoints, run)
    (data,) = Path(checkpoints.storage.path(checkpoints.at(3))).glob("*.distcp")
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(StorageError) as caught:
        checkpoints.load(3, run.model, run.optimizer)
    assert f"storage '{checkpoints.storage.uri}': the checkpoint of step 3 cannot be read" in str(caught.value)
    assert ".distcp ends at byte" in str(caught.value)
    assert "storage=PATH_OR_URI" in str(caught.value)
    data.unlink()
    with pytest.raises(StorageError, match=r"the checkpoint of step 3 cannot be read.*No such file"):
        checkpoints.load_weights(3, run.model)


def test_a_checkpoint_of_another_model_is_refused_by_the_weight_that_is_missing(checkpoints: Checkpoints) -> None:
    write(checkpoints, new_run().train(0, 3))
    with pytest.raises(RuntimeError, match=r"Missing key in checkpoint state_dict: model.weight"):
        checkpoints.load_weights(3, torch.nn.Linear(2, 2))


def test_who_is_handed_a_checkpoint_has_the_best_one_too_and_counts_its_patience_anew(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    own, other, run = Checkpoints(storage, "own"), Checkpoints(storage, "other"), new_run("alone").train(0, 3)
    for step in (3, 6, 9):
        write(own, run, replace(PROGRESS, step=step, best_step=3, epochs_without_better=step // 3 - 1), keep=1)
    assert own.steps() == [3, 9]
    own.hand_over(9, other)
    assert other.steps() == [3, 9]
    assert other.progress(9) == replace(own.progress(9), epochs_without_better=0)
    assert (other.progress(3), other.origin(9)) == (own.progress(3), ORIGIN)
    loaded = new_run("alone", seed=1)
    other.load(9, loaded.model, loaded.optimizer)
    assert_same(loaded.state(), run.state())
    own.hand_over(9, other)
    assert other.steps() == [3, 9]


def test_a_run_without_a_best_one_hands_over_its_newest_checkpoint_alone(tmp_path: Path) -> None:
    own, other = (Checkpoints(Storage(str(tmp_path)), name) for name in ("own", "other"))
    for step in (3, 6):
        write(own, new_run("alone"), Progress(step=step))
    own.hand_over(6, other)
    assert other.steps() == [6]
