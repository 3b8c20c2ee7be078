import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.optim import SGD, Adam, Optimizer

from jobs.parallel.checkpoint_state import (
    AVERAGE,
    State,
    put_state,
    saved_weights,
    state_to_fill,
    training_state,
    weights_to_fill,
)


def metadata_of(state: State) -> Metadata:
    """What torch would write down of a checkpoint of this state."""
    planner = DefaultSavePlanner()
    planner.set_up_planner(dict(state), is_coordinator=True)
    _, metadata = planner.create_global_plan([planner.create_local_plan()])
    return metadata


class Tied(nn.Module):
    """Two names for one weight, one weight that is never used, one that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.last.weight = self.first.weight
        self.idle = nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def stepped(model: nn.Module, optimizer: Optimizer, num_steps: int) -> None:
    for _ in range(num_steps):
        for name, parameter in model.named_parameters():
            if not name.startswith(("idle", "frozen")):
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()


def adam(model: nn.Module) -> Adam:
    return Adam(model.parameters(), lr=0.1)


def test_each_weight_goes_by_all_its_names_with_what_the_optimizer_keeps_of_it() -> None:
    model = Tied()
    optimizer = adam(model)
    stepped(model, optimizer, 2)
    state = training_state(model, optimizer)
    assert set(state["model"]) == set(model.state_dict())
    assert set(state["optimizer"]) == {"first.weight", "last.weight", "first.bias", "last.bias"}
    assert set(state["optimizer"]["first.bias"]) == {"step", "exp_avg", "exp_avg_sq"}
    assert state["optimizer"]["last.weight"]["exp_avg"] is state["optimizer"]["first.weight"]["exp_avg"]


@pytest.mark.parametrize("num_steps", [0, 2])
def test_taking_the_state_leaves_the_optimizer_as_it_is(num_steps: int) -> None:
    model = Tied()
    optimizer = adam(model)
    stepped(model, optimizer, num_steps)
    before = {key: dict(values) for key, values in optimizer.state_dict()["state"].items()}
    training_state(model, optimizer)
    torch.testing.assert_close(optimizer.state_dict()["state"], before, rtol=0, atol=0)


def test_an_optimizer_that_keeps_nothing_has_no_state() -> None:
    model = nn.Linear(2, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    stepped(model, optimizer, 1)
    assert not any(training_state(model, optimizer)["optimizer"].values())


def test_a_weight_that_never_got_a_gradient_has_no_state_again_and_the_others_have_theirs() -> None:
    model, other = Tied(), Tied()
    optimizer, again = adam(model), adam(other)
    stepped(model, optimizer, 2)
    saved = training_state(model, optimizer)
    room = state_to_fill(other, metadata_of(saved))
    assert {name: set(kept) for name, kept in room["optimizer"].items()} == {
        name: set(kept) for name, kept in saved["optimizer"].items()
    }
    stepped(other, again, 1)
    again.state[other.idle.bias] = {"step": torch.ones(())}  # of a run that is given up
    put_state(other, again, saved)
    torch.testing.assert_close(again.state_dict(), optimizer.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_weight_is_filled_with_its_average_where_one_was_kept_under_any_of_its_names() -> None:
    model, other = Tied(), Tied()
    optimizer = adam(model)
    stepped(model, optimizer, 1)
    optimizer.state[model.first.weight][AVERAGE] = torch.zeros(3, 3)
    optimizer.state[model.last.bias][AVERAGE] = torch.zeros(3)
    room = weights_to_fill(other, metadata_of(training_state(model, optimizer)))
    assert set(room["optimizer"]) == {"first.weight", "last.weight", "last.bias"}
    assert all(set(kept) == {AVERAGE} for kept in room["optimizer"].values())
    assert set(room["model"]) == {"first.bias", "idle.weight", "idle.bias", "frozen.weight", "frozen.bias"}
    room["optimizer"]["last.bias"][AVERAGE].fill_(7)
    assert other.last.bias.tolist() == [7, 7, 7]


def test_there_is_room_for_every_saved_weight_without_a_model() -> None:
    model = Tied()
    optimizer = adam(model)
    optimizer.state[model.last.bias][AVERAGE] = torch.ones(3)
    room = saved_weights(metadata_of(training_state(model, optimizer)), "meta")
    assert room["optimizer"]["last.bias"][AVERAGE].shape == (3,)
    whole = {name: weight.shape for name, weight in model.state_dict().items() if name != "last.bias"}
    assert {name: weight.shape for name, weight in room["model"].items()} == whole
    assert all(weight.is_meta for weight in room["model"].values())


def test_what_is_put_moves_with_the_optimizer_and_its_own_settings() -> None:
    model = nn.Linear(2, 2)
    optimizer = SGD(model.parameters(), lr=0.5, momentum=0.5)
    weights = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    kept = {name: {"momentum_buffer": torch.full_like(value, 8)} for name, value in weights.items()}
    put_state(model, optimizer, {"model": weights, "optimizer": kept})
    stepped(model, optimizer, 1)
    assert model.bias.tolist() == [-2.5, -2.5]  # 0.5 * (0.5 * 8 + 1)


def test_state_of_another_shape_than_its_weight_is_refused() -> None:
    model = nn.Linear(2, 3)
    rows: dict[str, dict[str, Tensor]] = {"weight": {"row_mean": torch.zeros(3)}}
    metadata = metadata_of({"model": dict(model.state_dict()), "optimizer": rows})
    with pytest.raises(ValueError, match=r"optimizer state weight.row_mean is \[3\], its weight \[3, 2\]"):
        state_to_fill(model, metadata)
