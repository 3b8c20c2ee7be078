"""The average against PyTorch's own `AveragedModel`, beside the same training in one process."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.swa_utils import AveragedModel

from cluster.layout import Layout
from cluster.storage import Storage
from jobs.moving_average import averages_as_weights, decay_of, update
from jobs.parallel.checkpoint import Checkpoints, Origin, Progress
from jobs.parallel.checkpoint_state import AVERAGE
from jobs.parallel.checkpoint_writer import CheckpointWriter
from jobs.parallel.collectives import rank
from jobs.parallel.feed import Feed
from jobs.parallel.parted import Parted
from jobs.parallel.precision import FIRST_LOSS_SCALE
from jobs.spec import EarlyStoppingSpec, OptimizerSpec, TrainSpec
from jobs.training_step import TrainingStep
from tests.jobs.parallel.training import BATCH_SIZE, CPU, NUM_STEPS, sample, source
from tests.jobs.parallel.training import parted as sample_parted
from tests.jobs.parallel.workers import run_together
from tests.jobs.test_training_step import parted, rows_of, step_rows, train_spec

DECAY = 0.4
"""The tenth step is the fourth that has all of it: min(0.4, (1 + n) / (10 + n)) from n = 5 on."""
STOPPED_AT = 8
"""So late that what was averaged before still counts at the end."""
SAMPLE = "language"


def reference(model: nn.Module) -> AveragedModel:
    """Copies the weights at its first update, and counts updates from 1 on at the second."""

    def average(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        decay = min(DECAY, (1 + int(num_averaged)) / (10 + int(num_averaged)))
        return decay * averaged + (1 - decay) * current

    return AveragedModel(model, avg_fn=average)


def averages(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    return {name: optimizer.state[weight][AVERAGE] for name, weight in model.named_parameters()}


def test_the_decay_rises_to_what_is_asked_for() -> None:
    assert [decay_of(0.25, step) for step in range(5)] == [1 / 10, 2 / 11, 3 / 12, 0.25, 0.25]
    assert decay_of(0.999, 10**6) == 0.999


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_steps_keep_the_average_that_pytorch_keeps_and_move_as_without_it(name: Any, momentum: float) -> None:
    optimizer = OptimizerSpec(name=name, learning_rate=0.1, momentum=momentum)
    rules = {"optimizer": optimizer, "early_stopping": EarlyStoppingSpec(metric="loss")}
    plain, averaged = parted(), parted()
    one = TrainingStep(TrainSpec(**rules), plain, 8)
    other = TrainingStep(TrainSpec(**rules, ema_decay=DECAY), averaged, 8)
    expected = reference(plain.model)
    for number in range(8):
        for step in (one, other):
            step(step_rows(rows_of(number)), number, wants_norm=False)
        expected.update_parameters(plain.model)
        torch.testing.assert_close(averaged.model.state_dict(), plain.model.state_dict(), rtol=0, atol=0)
        found = averages(averaged.model, other.optimizer)
        torch.testing.assert_close(found, dict(expected.module.named_parameters()))
    assert not torch.equal(found["weights.weight"], plain.model.state_dict()["weights.weight"])
    assert not any(AVERAGE in kept for kept in one.optimizer.state.values())


def test_a_step_that_overflows_fp16_moves_no_average() -> None:
    half = parted(precision="fp16")
    step, before = TrainingStep(train_spec(ema_decay=DECAY), half, 3), half.model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    large, small = rows_of(0), rows_of(1)
    large["y"] += 200  # see test_training_step
    step.loss_scale = FIRST_LOSS_SCALE
    step(step_rows(large), 0, wants_norm=False)
    torch.testing.assert_close(half.model.state_dict(), before, rtol=0, atol=0)
    assert not any(AVERAGE in kept for kept in step.optimizer.state.values())
    step.loss_scale = 1.0
    step(step_rows(small), 1, wants_norm=False)
    first = {name: value.clone() for name, value in averages(half.model, step.optimizer).items()}
    torch.testing.assert_close(first, half.model.state_dict(), rtol=0, atol=0)
    step.loss_scale = FIRST_LOSS_SCALE
    step(step_rows(large), 2, wants_norm=False)
    torch.testing.assert_close(averages(half.model, step.optimizer), first, rtol=0, atol=0)


@pytest.mark.parametrize("optimizer_class", [Adam, AdamW, RMSprop])
def test_a_weight_has_no_average_until_it_moves(optimizer_class: type[Adam | AdamW | RMSprop]) -> None:
    model = nn.ModuleDict({"first": nn.Linear(2, 2), "late": nn.Linear(2, 2)})
    optimizer = optimizer_class(model.parameters(), lr=0.1)
    for step, moving in enumerate(("first", "late")):
        for weight in model[moving].parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        update(optimizer, decay_of(DECAY, step))
        has_average = {name: AVERAGE in optimizer.state.get(p, {}) for name, p in model.named_parameters()}
        assert has_average == {name: moving == "late" or name.startswith("first") for name in has_average}
    torch.testing.assert_close(optimizer.state[model["late"].bias][AVERAGE], model["late"].bias.detach())


def test_an_average_follows_a_weight_that_a_step_left_where_it_was() -> None:
    model = nn.Linear(1, 1, bias=False)
    optimizer = SGD(model.parameters(), lr=1.0)
    with torch.no_grad():
        model.weight.fill_(3.0)
    for gradient in (torch.tensor([[1.0]]), torch.tensor([[1.0]]), None):
        model.weight.grad = gradient
        optimizer.step()
        update(optimizer, 0.5)
    assert model.weight.item() == 1.0  # after 2.0, with which the average began
    assert optimizer.state[model.weight][AVERAGE].item() == 0.5 * (0.5 * 2.0 + 0.5 * 1.0) + 0.5 * 1.0


def test_averages_change_places_with_the_weights_and_back_whatever_happens() -> None:
    model = nn.Linear(2, 2)
    optimizer = Adam(model.parameters(), lr=0.1)
    for step in range(3):
        model.weight.grad, model.bias.grad = torch.ones(2, 2), None
        optimizer.step()
        update(optimizer, decay_of(DECAY, step))
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    average = optimizer.state[model.weight][AVERAGE].clone()
    held = model.weight.data_ptr()
    inside = {}

    def look_and_fail() -> None:
        with averages_as_weights(optimizer):
            inside.update({name: value.clone() for name, value in model.state_dict().items()})
            raise KeyError

    with pytest.raises(KeyError):
        look_and_fail()
    torch.testing.assert_close(inside, {"weight": average, "bias": bias}, rtol=0, atol=0)
    torch.testing.assert_close(model.weight.detach(), weight, rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state[model.weight][AVERAGE], average, rtol=0, atol=0)
    assert model.weight.data_ptr() == held


def spec() -> TrainSpec:
    optimizer = OptimizerSpec(name="adamw", learning_rate=1e-3)
    return TrainSpec(
        batch_size=BATCH_SIZE, optimizer=optimizer, ema_decay=DECAY, early_stopping=EarlyStoppingSpec(metric="loss")
    )


def train(model: Parted, step: TrainingStep, layout: Layout, first: int, end: int) -> None:
    feed = Feed(source(sample(SAMPLE)), layout, rank(), 0, BATCH_SIZE, CPU)
    for number in range(first, end):
        rows = feed.epoch(*divmod(number, feed.steps_an_epoch))
        step(next(rows), number, wants_norm=False)
        rows.close()


def write_averages(folder: Path, layout: Layout, checkpoints: Checkpoints | None = None, saves: bool = False) -> None:
    """A run as one worker of the layout, from a checkpoint or from the start, saved midway or not; then its averages,
    by whole weights."""
    model = sample_parted(sample(SAMPLE), layout)
    step = TrainingStep(spec(), model, NUM_STEPS)
    first = 0
    if checkpoints and not saves:
        first = checkpoints.load(STOPPED_AT, model.model, step.optimizer).step
    if checkpoints and saves:
        train(model, step, layout, 0, STOPPED_AT)
        with CheckpointWriter(checkpoints, 1, Origin("", "")) as writer:
            writer.save(model.model, step.optimizer, Progress(step=STOPPED_AT))
        first = STOPPED_AT
    train(model, step, layout, first, NUM_STEPS)
    with averages_as_weights(step.optimizer):
        whole = model.whole_weights()
        if whole is not None:
            torch.save(whole, folder / f"{layout.line()}.pt")


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    """What PyTorch's average comes to beside steps in one process that keep none."""
    model = sample_parted(sample(SAMPLE), Layout())
    step = TrainingStep(spec().model_copy(update={"ema_decay": None}), model, NUM_STEPS)
    expected = reference(model.model)
    for number in range(NUM_STEPS):
        train(model, step, Layout(), number, number + 1)
        expected.update_parameters(model.model)
    return {name: value.detach().clone() for name, value in expected.module.named_parameters()}


def assert_found(folder: Path, layout: Layout, expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(torch.load(folder / f"{layout.line()}.pt"), expected, rtol=1e-4, atol=1e-5)


SHARDED, PIPELINED = Layout(shard=2), Layout(pipeline=2, micro_batches=4)


@pytest.mark.equivalence
def test_the_average_is_one_on_every_layout_and_after_a_stop_on_another(
    alone: dict[str, Tensor], tmp_path: Path
) -> None:
    checkpoints = Checkpoints(Storage(str(tmp_path / "storage")), "checkpoints/average")
    run_together(2, partial(write_averages, layout=SHARDED, checkpoints=checkpoints, saves=True), tmp_path)
    assert_found(tmp_path, SHARDED, alone)
    run_together(2, partial(write_averages, layout=PIPELINED, checkpoints=checkpoints), tmp_path)
    assert_found(tmp_path, PIPELINED, alone)
    write_averages(tmp_path, Layout(), checkpoints)
    assert_found(tmp_path, Layout(), alone)


@pytest.mark.equivalence
def test_the_average_of_matrices_that_are_split_is_one_too(alone: dict[str, Tensor], tmp_path: Path) -> None:
    run_together(2, partial(write_averages, layout=Layout(tensor=2)), tmp_path)
    assert_found(tmp_path, Layout(tensor=2), alone)
