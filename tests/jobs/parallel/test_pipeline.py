from itertools import chain as joined
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from cluster.layout import Layout, Schedule
from jobs.parallel.collectives import rank
from jobs.parallel.pipeline import (
    ONE_STAGE_A_WORKER,
    SCHEDULES,
    LossLink,
    Pipeline,
    Stage,
    cut,
    links_of,
    num_stages,
    stages_of,
)
from jobs.workloads.chain import Batch, Chain
from tests.jobs.parallel.workers import run_together

LAYOUTS = [Layout(pipeline=length, schedule=schedule) for length in (2, 3, 4) for schedule in SCHEDULES]
on_any_schedule = pytest.mark.parametrize("layout", LAYOUTS, ids=Layout.line)


class Link(nn.Module):
    """Adds up what came over, or the batch, in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, hidden: Tensor | None, batch: Batch) -> Tensor:
        return torch.tanh(self.layer(batch["given"] if hidden is None else hidden))


def losses(outputs: Tensor, batch: Batch) -> Tensor:
    return (outputs - batch["wanted"]).square().sum(1)


def chain(num_links: int = 9) -> Chain:
    torch.manual_seed(0)
    return Chain({f"link{number}": Link() for number in range(num_links)})


def batch() -> Batch:
    draw = torch.Generator().manual_seed(1)
    given, wanted = torch.randn(2, 8, 3, generator=draw)
    return {"given": given, "wanted": wanted, "weight": torch.tensor([1.0, 0.5, 2, 0, 1, 1, 3, 0.25])}


@pytest.mark.parametrize("num_links", range(1, 13))
@pytest.mark.parametrize("num", [1, 2, 3, 5, 8])
def test_stages_hold_every_link_once_in_order_and_equally_many_but_for_one(num_links: int, num: int) -> None:
    names = [f"link{number}" for number in range(num_links)]
    stretches = [links_of(names, num, stage) for stage in range(num)]
    assert list(joined(*stretches)) == names
    lengths = [len(stretch) for stretch in stretches]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@on_any_schedule
def test_every_stage_is_held_by_one_worker(layout: Layout) -> None:
    held = [stages_of(layout, place) for place in range(layout.pipeline)]
    assert sorted(joined(*held)) == list(range(num_stages(layout)))
    a_worker = 1 if layout.schedule in ONE_STAGE_A_WORKER else 2
    assert {len(stages) for stages in held} == {a_worker}


@on_any_schedule
def test_what_follows_a_stage_lies_on_the_next_worker_or_in_a_v_turns_back(layout: Layout) -> None:
    worker = {stage: place for place in range(layout.pipeline) for stage in stages_of(layout, place)}
    path = [worker[stage] for stage in range(num_stages(layout))]
    there = list(range(layout.pipeline))
    if layout.schedule == "zbv":
        assert path == there + there[::-1]
    else:
        assert path == there * (num_stages(layout) // layout.pipeline)


@on_any_schedule
def test_a_worker_holds_the_links_of_its_stages_under_their_names_and_no_others(layout: Layout) -> None:
    whole = chain()
    names: list[str] = []
    for place in range(layout.pipeline):
        owned, stages = cut(whole, layout, place, losses)
        assert all(owned[name] is whole[name] for name in owned)
        assert [name for stage in stages for name in stage if name != "loss"] == list(owned)
        assert all(stage[name] is owned[name] for stage in stages for name in stage if name != "loss")
        assert set(owned.state_dict()) <= set(whole.state_dict())
        names += owned
    assert sorted(names) == sorted(whole)


@on_any_schedule
def test_only_the_last_stage_ends_with_the_loss_and_adds_no_weights(layout: Layout) -> None:
    ends = {}
    for place in range(layout.pipeline):
        owned, stages = cut(chain(), layout, place, losses)
        assert "loss" not in owned
        for number, stage in zip(stages_of(layout, place), stages, strict=True):
            ends[number] = list(stage)[-1] == "loss"
            assert set(stage.state_dict()) <= set(owned.state_dict())
    assert [number for number, has_loss in ends.items() if has_loss] == [num_stages(layout) - 1]


@on_any_schedule
def test_the_stages_one_after_another_are_the_model_and_its_weighted_loss(layout: Layout) -> None:
    whole = chain()
    parts: dict[int, Stage] = {}
    for place in range(layout.pipeline):
        parts |= dict(zip(stages_of(layout, place), cut(whole, layout, place, losses)[1], strict=True))
    hidden: Tensor | None = None
    for number in range(num_stages(layout)):
        hidden = parts[number](hidden, batch=batch()) if number else parts[0](batch=batch())
    expected = (losses(whole(batch()), batch()) * batch()["weight"]).sum()
    torch.testing.assert_close(hidden, expected[None])


def test_the_loss_of_rows_is_summed_by_their_weight() -> None:
    outputs = torch.tensor([[1.0], [2.0], [5.0]])
    rows = {"wanted": torch.zeros(3, 1), "weight": torch.tensor([1.0, 0.5, 0.0])}
    assert LossLink(losses)(outputs, rows).tolist() == [1.0 + 0.5 * 4.0]


def run_pipeline(folder: Path) -> None:
    """On two workers, with each schedule: a batch's gradients, twice, and the loss that each worker is told."""
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("pipeline",))
    for schedule in SCHEDULES:
        layout = Layout(pipeline=2, micro_batches=4, schedule=schedule)
        owned, stages = cut(chain(), layout, rank(), losses)
        pipeline = Pipeline(list(stages), layout, mesh, torch.device("cpu"))
        told = [float(pipeline.step(batch())) for _ in range(2)]
        gradients = {name: weight.grad for name, weight in owned.named_parameters()}
        torch.save((told, gradients, stages_of(layout, rank())), folder / f"{schedule} {rank()}.pt")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    run_together(2, run_pipeline, folder)
    return folder


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_pipeline_adds_the_gradients_of_the_whole_model_to_those_that_are_there(
    ran: Path, schedule: Schedule
) -> None:
    whole = chain()
    for _ in range(2):
        loss = (losses(whole(batch()), batch()) * batch()["weight"]).sum()
        loss.backward()
    expected = {name: weight.grad for name, weight in whole.named_parameters()}
    found = {}
    for worker in range(2):
        told, gradients, stages = torch.load(ran / f"{schedule} {worker}.pt")
        found |= gradients
        holds_last = num_stages(Layout(pipeline=2, schedule=schedule)) - 1 in stages
        assert told == pytest.approx([loss.item() if holds_last else 0.0] * 2, rel=1e-6)
    torch.testing.assert_close(found, expected)
