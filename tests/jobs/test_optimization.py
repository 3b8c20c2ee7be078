from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LinearLR, LRScheduler
from torch.testing._internal.distributed.fake_pg import FakeStore

from jobs.optimization import build_optimizer, learning_rate, set_learning_rate
from jobs.spec import EarlyStoppingSpec, OptimizerSpec, TrainSpec

RATE = 0.3
NUM_STEPS = 40


def train_spec(schedule: str, warmup: float = 0) -> TrainSpec:
    stopping, optimizer = EarlyStoppingSpec(metric="rmse"), OptimizerSpec(learning_rate=RATE)
    return TrainSpec(schedule=schedule, warmup=warmup, optimizer=optimizer, early_stopping=stopping)


def rates_of(schedule: str, warmup: float = 0) -> list[float]:
    return [learning_rate(train_spec(schedule, warmup), step, NUM_STEPS) for step in range(NUM_STEPS + 1)]


def rates_of_torch(kind: type[LRScheduler], **settings: float) -> list[float]:
    """The rates of PyTorch's own scheduler over as many steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    scheduler = kind(optimizer, **settings)
    rates = []
    for _ in range(NUM_STEPS + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def quadratic(x: Tensor) -> Tensor:
    """A bowl, steeper along some axes."""
    return (torch.tensor([1.0, 3.0, 10.0]) * (x - torch.tensor([1.0, -2.0, 0.5])) ** 2).sum()


def path_of(optimizer: torch.optim.Optimizer, x: Tensor) -> list[list[float]]:
    """Where ten steps lead."""
    path = []
    for _ in range(10):
        optimizer.zero_grad()
        quadratic(x).backward()
        optimizer.step()
        path.append(x.tolist())
    return path


def test_constant_stays_at_the_first_rate() -> None:
    assert rates_of("constant") == [RATE] * (NUM_STEPS + 1)


def test_cosine_starts_at_the_rate_halves_it_midway_and_ends_at_zero() -> None:
    rates = rates_of("cosine")
    assert [rates[0], rates[NUM_STEPS // 2], rates[NUM_STEPS]] == pytest.approx([RATE, RATE / 2, 0], abs=1e-15)


def test_cosine_is_that_of_torch() -> None:
    assert rates_of("cosine") == pytest.approx(rates_of_torch(CosineAnnealingLR, T_max=NUM_STEPS), abs=1e-12)


def test_exponential_falls_to_a_hundredth_through_a_tenth() -> None:
    rates = rates_of("exponential")
    assert [rates[0], rates[NUM_STEPS // 2], rates[NUM_STEPS]] == pytest.approx([RATE, RATE / 10, RATE / 100])


def test_exponential_is_that_of_torch() -> None:
    assert rates_of("exponential") == pytest.approx(rates_of_torch(ExponentialLR, gamma=0.01 ** (1 / NUM_STEPS)))


def test_linear_is_that_of_torch() -> None:
    settings = {"start_factor": 1.0, "end_factor": 0.0, "total_iters": NUM_STEPS}
    assert rates_of("linear") == pytest.approx(rates_of_torch(LinearLR, **settings), abs=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential", "linear"])
def test_a_warm_up_rises_in_equal_parts_and_the_schedule_follows_over_what_is_left(schedule: str) -> None:
    rates = rates_of(schedule, warmup=0.25)
    num_rising = NUM_STEPS // 4
    assert rates[:num_rising] == pytest.approx([RATE * (step + 1) / num_rising for step in range(num_rising)])
    after = [learning_rate(train_spec(schedule), step, NUM_STEPS - num_rising) for step in range(31)]
    assert rates[num_rising:] == pytest.approx(after)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential", "linear"])
def test_a_run_of_one_step_takes_the_first_rate(schedule: str) -> None:
    assert learning_rate(train_spec(schedule), 0, 1) == RATE


@pytest.mark.parametrize(
    ("spec", "kind", "settings"),
    [
        (OptimizerSpec(name="adamw", learning_rate=0.1, weight_decay=0.3), torch.optim.AdamW, {"weight_decay": 0.3}),
        (OptimizerSpec(name="adam", learning_rate=0.1, weight_decay=0.3), torch.optim.Adam, {"weight_decay": 0.3}),
        (
            OptimizerSpec(name="rmsprop", learning_rate=0.1, weight_decay=0.3),
            torch.optim.RMSprop,
            {"weight_decay": 0.3},
        ),
        (
            OptimizerSpec(name="sgd", learning_rate=0.1, weight_decay=0.3, momentum=0.5),
            torch.optim.SGD,
            {"weight_decay": 0.3, "momentum": 0.5},
        ),
    ],
)
def test_each_name_moves_a_point_as_torchs_own_optimizer(
    spec: OptimizerSpec, kind: type[torch.optim.Optimizer], settings: dict[str, float]
) -> None:
    ours, theirs = (torch.zeros(3, requires_grad=True) for _ in range(2))
    assert path_of(build_optimizer(spec, [ours]), ours) == path_of(kind([theirs], lr=0.1, **settings), theirs)


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "sgd"])
def test_where_matrices_alone_decay_a_bias_is_pulled_nowhere(name: str) -> None:
    matrix, bias = torch.ones(2, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    spec = OptimizerSpec(name=name, learning_rate=0.1, weight_decay=0.3, decays="matrices")  # type: ignore[arg-type]
    optimizer = build_optimizer(spec, [bias, matrix])
    for weight in matrix, bias:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert bias.tolist() == [1, 1]
    assert matrix.max() < 1


def test_a_factor_is_of_its_parameter_alone_at_every_rate() -> None:
    slow, fast = (torch.zeros(3, requires_grad=True) for _ in range(2))
    spec = OptimizerSpec(name="sgd", learning_rate=1.0, weight_decay=0, momentum=0)
    optimizer = build_optimizer(spec, [slow, fast], {fast: 4.0})
    set_learning_rate(optimizer, 0.01)
    for weight in slow, fast:
        weight.grad = torch.ones(3)
    optimizer.step()
    assert (slow.tolist(), fast.tolist()) == (pytest.approx([-0.01] * 3), pytest.approx([-0.04] * 3))


def test_a_step_of_sgd_follows_the_rate_that_was_set() -> None:
    x = torch.zeros(3, requires_grad=True)
    optimizer = build_optimizer(OptimizerSpec(name="sgd", learning_rate=1.0, weight_decay=0, momentum=0), [x])
    set_learning_rate(optimizer, 0.01)
    quadratic(x).backward()
    optimizer.step()
    assert x.tolist() == pytest.approx([0.01 * 2 * 1 * 1, 0.01 * 2 * 3 * -2, 0.01 * 2 * 10 * 0.5])


def test_the_rate_is_set_in_every_group() -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 0.5}], lr=0.1)
    set_learning_rate(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02]


@pytest.fixture
def _one_of_four_workers() -> Iterator[None]:
    """A process group of which there is only this worker: enough to lay weights out."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_of_four_workers")
@pytest.mark.parametrize("name", ["adamw", "adam", "rmsprop", "sgd"])
def test_weights_on_different_meshes_and_on_none_are_moved_together(name: str) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))
    places = (None, mesh["shard"], None, mesh["tensor"], mesh, mesh["shard"])
    weights = []
    for over in places:
        whole = torch.ones(3)
        laid = whole if over is None else DTensor.from_local(whole, over, [Replicate()] * over.ndim, run_check=False)
        weights.append(laid.requires_grad_())
        weights[-1].grad = torch.full_like(laid, 2.0)
    optimizer = build_optimizer(OptimizerSpec(name=name, learning_rate=0.1, weight_decay=0), weights)  # type: ignore[arg-type]
    optimizer.step()
    grouped = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, weights))
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2, 1, 1]
    moved = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]
    assert all(torch.equal(one, moved[0]) for one in moved)
    assert moved[0][0] < 1
