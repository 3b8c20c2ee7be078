"""One step against PyTorch used by hand in the same process."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from cluster.layout import Layout
from cluster.storage import Storage
from jobs.moving_average import averages_as_weights
from jobs.parallel.checkpoint import Checkpoints, Origin, Progress
from jobs.parallel.checkpoint_writer import CheckpointWriter
from jobs.parallel.collectives import rank
from jobs.parallel.feed import Feed, StepRows
from jobs.parallel.parted import Parted, part
from jobs.parallel.precision import FIRST_LOSS_SCALE
from jobs.spec import EarlyStoppingSpec, OptimizerSpec, TrainSpec
from jobs.training_step import TrainingStep
from jobs.workloads import WORKLOADS
from jobs.workloads.chain import Batch
from jobs.workloads.partition import Partition
from tests.jobs.parallel.training import BATCH_SIZE, CPU, sample, source
from tests.jobs.parallel.training import parted as sample_parted
from tests.jobs.parallel.workers import run_together

NUM_STEPS = 4


class Line(nn.Module):
    """A linear model of the rows `x`."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(3, 1)

    def forward(self, batch: Batch) -> Tensor:
        predicted: Tensor = self.weights(batch["x"]).squeeze(-1)
        return predicted


def squared_error(outputs: Tensor, batch: Batch) -> Tensor:
    return (outputs - batch["y"]) ** 2


def parted(**layout: object) -> Parted:
    torch.manual_seed(0)
    return part(Line(), Layout(**layout), Partition(units=("",)), squared_error, CPU)  # type: ignore[arg-type]


def train_spec(**given: object) -> TrainSpec:
    optimizer = OptimizerSpec(name="sgd", learning_rate=0.1, weight_decay=0.0, momentum=0.0)
    return TrainSpec(optimizer=optimizer, early_stopping=EarlyStoppingSpec(metric="loss"), **given)  # type: ignore[arg-type]


def rows_of(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(8, 3, generator=generator), torch.randn(8, generator=generator)
    return {"x": x, "y": y, "weight": torch.ones(8)}


def step_rows(batch: Batch, num_passes: int = 1) -> StepRows:
    parts = zip(*(values.chunk(num_passes) for values in batch.values()), strict=True)
    passes = [dict(zip(batch, values, strict=True)) for values in parts]
    return StepRows(passes, int(batch["weight"].sum()), 0.0)


def weights(model: Parted) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.model.parameters()]


@pytest.mark.parametrize("most", [None, 0.5])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_step_is_what_pytorch_does_by_hand(most: float | None, schedule: str) -> None:
    model = parted()
    step = TrainingStep(train_spec(max_gradient_norm=most, schedule=schedule), model, NUM_STEPS)
    torch.manual_seed(0)
    reference = Line()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    by_hand = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)
    for number in range(NUM_STEPS):
        batch = rows_of(number)
        result = step(step_rows(batch), number, wants_norm=True)
        optimizer.zero_grad()
        loss = squared_error(reference(batch), batch).mean()
        loss.backward()
        norm = clip_grad_norm_(reference.parameters(), most or torch.inf)
        optimizer.step()
        if schedule == "cosine":
            by_hand.step()
        assert result.gradient_norm is not None
        assert float(result.gradient_norm) == pytest.approx(float(norm), rel=1e-5)
        assert float(result.summed_loss) / 8 == pytest.approx(loss.item(), rel=1e-5)
    for ours, theirs in zip(weights(model), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach())


def test_passes_add_up_to_one_step() -> None:
    ends = []
    for num_passes in (1, 4):
        model = parted(accumulation=num_passes)
        step = TrainingStep(train_spec(), model, NUM_STEPS)
        for number in range(NUM_STEPS):
            step(step_rows(rows_of(number), num_passes), number, wants_norm=False)
        ends.append(weights(model))
    for one, several in zip(*ends, strict=True):
        torch.testing.assert_close(one, several)


def test_rows_of_weight_0_do_not_count() -> None:
    ends = []
    for values in (1.0, 99.0):
        model, batch = parted(), rows_of(0)
        batch["weight"][5:] = 0
        batch["x"][5:] = values
        result = TrainingStep(train_spec(), model, 1)(step_rows(batch), 0, wants_norm=False)
        ends.append([*weights(model), result.summed_loss])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_the_norm_is_left_out_where_nobody_needs_it() -> None:
    step = TrainingStep(train_spec(), parted(), 1)
    assert step(step_rows(rows_of(0)), 0, wants_norm=False).gradient_norm is None


def test_a_scaled_loss_moves_the_weights_as_an_unscaled_one() -> None:
    plain, half = parted(), parted()
    TrainingStep(train_spec(max_gradient_norm=0.5), plain, 1)(step_rows(rows_of(0)), 0, wants_norm=True)
    step = TrainingStep(train_spec(max_gradient_norm=0.5), half, 1)
    step._scales_loss, step.loss_scale = True, 1024.0  # fp16's scaling without its rounding
    result = step(step_rows(rows_of(0)), 0, wants_norm=True)
    for one, other in zip(weights(plain), weights(half), strict=True):
        torch.testing.assert_close(one, other)
    assert result.gradient_norm is not None
    assert torch.isfinite(result.gradient_norm)


def test_steps_that_overflow_fp16_are_left_out_until_the_halved_scale_fits() -> None:
    exact, half = parted(), parted(precision="fp16")
    batch = rows_of(0)
    batch["y"] += 200  # the bias has a gradient of 2 x 200 x scale: above fp16's 65504 at 256, but not at 128
    expected = TrainingStep(train_spec(), exact, 1)(step_rows(batch), 0, wants_norm=True)
    step, before = TrainingStep(train_spec(), half, 1), weights(half)
    scales = []
    while all(map(torch.equal, weights(half), before)):
        scales.append(step.loss_scale)
        found = step(step_rows(batch), 0, wants_norm=False)
    assert scales == [FIRST_LOSS_SCALE / 2**halvings for halvings in range(10)]
    assert step.loss_scale == 128
    assert found.gradient_norm is not None
    torch.testing.assert_close(found.gradient_norm, expected.gradient_norm, rtol=1e-2, atol=0)
    torch.testing.assert_close(found.summed_loss, expected.summed_loss, rtol=1e-2, atol=0)
    torch.testing.assert_close(weights(half), weights(exact), rtol=1e-2, atol=1e-2)


def train_without_norms(folder: Path, layout: Layout) -> None:
    """An epoch as one worker of the layout; the first one keeps the weights that it leads to."""
    given = sample("language")
    model = sample_parted(given, layout)
    optimizer = OptimizerSpec(name="sgd", learning_rate=0.05)
    spec = TrainSpec(batch_size=BATCH_SIZE, optimizer=optimizer, early_stopping=EarlyStoppingSpec(metric="loss"))
    step = TrainingStep(spec, model, 10)
    for number, rows in enumerate(Feed(source(given), layout, rank(), 0, BATCH_SIZE, CPU).epoch(0, 0)):
        assert step(rows, number, wants_norm=False).gradient_norm is None
    torch.save(model.whole_weights(), folder / f"{layout.line()} {rank()}.pt")


def test_weights_that_sequence_peers_share_get_the_sum_of_their_gradients_though_no_norm_is_wanted(
    tmp_path: Path,
) -> None:
    layout = Layout(tensor=2, sequence_parallel=True)
    train_without_norms(tmp_path, Layout())
    run_together(2, partial(train_without_norms, layout=layout), tmp_path)
    expected, found = (torch.load(tmp_path / f"{given.line()} 0.pt") for given in (Layout(), layout))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


PLAYERS = "gan_float64"
TURNS = WORKLOADS["gan"].partition(sample(PLAYERS).spec).turns
ADAM = TrainSpec(
    optimizer=OptimizerSpec(name="adam", learning_rate=0.01, weight_decay=0),
    schedule="constant",
    max_gradient_norm=0.05,
    ema_decay=0.9,
    early_stopping=EarlyStoppingSpec(metric="loss"),
)


def play(model: Parted, step: TrainingStep, first: int, end: int) -> None:
    """These steps of the players."""
    feed = Feed(source(sample(PLAYERS)), model.layout, rank(), 0, BATCH_SIZE, CPU)
    for number in range(first, end):
        rows = feed.epoch(*divmod(number, feed.steps_an_epoch))
        step(next(rows), number, wants_norm=False)
        rows.close()


def test_players_in_turn_are_pytorchs_own_two_optimizers_each_clipped_by_itself() -> None:
    """Losses are those of Goodfellow et al. (2014) by PyTorch's cross entropy, gradients of the player's alone."""
    ours, theirs = (sample_parted(sample(PLAYERS), Layout()) for _ in range(2))
    gan = theirs.model
    networks = {name: list(gan.get_submodule(name).parameters()) for name in ("discriminator", "generator")}
    rates = {"discriminator": 0.02, "generator": 0.01}
    optimizers = {name: torch.optim.Adam(weights, rates[name]) for name, weights in networks.items()}
    feed = Feed(source(sample(PLAYERS)), Layout(), 0, 0, BATCH_SIZE, CPU)
    step = TrainingStep(ADAM, ours, 5, TURNS)
    for number, rows in enumerate(feed.epoch(0, 0)):
        (batch,) = rows.passes
        result = step(rows, number, wants_norm=True)
        player = ("discriminator", "generator")[number % 2]
        scores, ones = gan(batch), torch.ones(len(batch["weight"]), dtype=torch.float64)
        entropy = nn.BCEWithLogitsLoss(batch["weight"] / rows.num_rows, reduction="sum")
        if player == "discriminator":
            loss = entropy(scores[:, 0], ones) + entropy(scores[:, 1], 0 * ones)
        else:
            loss = entropy(scores[:, 1], ones)
        for weight, grad in zip(networks[player], torch.autograd.grad(loss, networks[player]), strict=True):
            weight.grad = grad
        norm = clip_grad_norm_(networks[player], 0.05)
        optimizers[player].step()
        assert result.gradient_norm is not None
        assert float(result.gradient_norm) == pytest.approx(float(norm))
        assert norm > 0.05
        assert float(result.summed_loss) / rows.num_rows == pytest.approx(loss.item())
    assert number == 4
    torch.testing.assert_close(ours.model.state_dict(), gan.state_dict(), rtol=1e-6, atol=1e-7)


def begin_play(folder: Path, layout: Layout, checkpoints: Checkpoints, stopped_at: int) -> None:
    model = sample_parted(sample(PLAYERS), layout)
    step = TrainingStep(ADAM, model, NUM_STEPS, TURNS)
    play(model, step, 0, stopped_at)
    with CheckpointWriter(checkpoints, 1, Origin("", "")) as writer:
        writer.save(model.model, step.optimizer, Progress(step=stopped_at))


@pytest.mark.parametrize(("layout", "stopped_at"), [(Layout(), 1), (Layout(), 4), (Layout(shard=2), 3)])
def test_players_that_were_stopped_after_a_turn_go_on_with_the_next(
    layout: Layout, stopped_at: int, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(Storage(str(tmp_path / "storage")), "checkpoints/gan")
    work = partial(begin_play, layout=layout, checkpoints=checkpoints, stopped_at=stopped_at)
    if layout.num_workers > 1:
        run_together(layout.num_workers, work, tmp_path)
    else:
        work(tmp_path)
    undisturbed, resumed = (sample_parted(sample(PLAYERS), Layout()) for _ in range(2))
    steps = [TrainingStep(ADAM, model, NUM_STEPS, TURNS) for model in (undisturbed, resumed)]
    play(undisturbed, steps[0], 0, 7)
    first = checkpoints.load(stopped_at, resumed.model, steps[1].optimizer).step
    play(resumed, steps[1], first, 7)
    exact = {"rtol": 0.0, "atol": 0.0} if layout.num_workers == 1 else {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(resumed.model.state_dict(), undisturbed.model.state_dict(), **exact)
    before = {name: value.clone() for name, value in resumed.model.state_dict().items()}
    with averages_as_weights(steps[0].optimizer), averages_as_weights(steps[1].optimizer):
        torch.testing.assert_close(resumed.model.state_dict(), undisturbed.model.state_dict(), **exact)
        assert not torch.equal(resumed.model.state_dict()["generator.first.weight"], before["generator.first.weight"])
