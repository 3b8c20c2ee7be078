"""What a worker holds, and the whole model that all of them make."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.layout import Layout
from jobs.parallel.collectives import rank
from tests.jobs.parallel.training import parted, sample
from tests.jobs.parallel.workers import run_together

LAYOUTS: list[dict[str, Any]] = [
    {"replicate": 2},
    {"shard": 2},
    {"tensor": 2},
    {"pipeline": 2, "micro_batches": 2, "schedule": "zbv"},
    {"shard": 2, "tensor": 2},
    {"shard": 2, "pipeline": 2, "micro_batches": 2},
]


def write_weights(folder: Path, layout: Layout) -> None:
    model = parted(sample("language"), layout)
    torch.save(model.whole_weights(), folder / f"{rank()}.pt")
    (folder / f"{rank()}.txt").write_text("\n".join(name for name, _ in model.model.named_parameters()))


@pytest.mark.parametrize("given", LAYOUTS, ids=str)
def test_the_first_worker_gets_the_whole_model_and_the_others_none(given: dict[str, Any], tmp_path: Path) -> None:
    layout = Layout(**given)
    run_together(layout.num_workers, partial(write_weights, layout=layout), tmp_path)
    whole = parted(sample("language"), Layout()).model.state_dict()
    found = [torch.load(tmp_path / f"{worker}.pt") for worker in range(layout.num_workers)]
    assert found[1:] == [None] * (layout.num_workers - 1)
    assert set(found[0]) == set(whole)
    for name, weight in whole.items():
        assert torch.equal(found[0][name], weight), name


def test_stages_of_a_pipeline_hold_each_weight_once_under_its_own_name(tmp_path: Path) -> None:
    layout = Layout(pipeline=2, micro_batches=2, schedule="interleaved_1f1b")
    run_together(2, partial(write_weights, layout=layout), tmp_path)
    held = [set((tmp_path / f"{worker}.txt").read_text().splitlines()) for worker in range(2)]
    names = {name for name, _ in parted(sample("language"), Layout()).model.named_parameters()}
    assert held[0] | held[1] == names
    assert held[0] & held[1] == set()


def test_one_worker_needs_no_process_group() -> None:
    model = parted(sample("tabular"), Layout())
    assert (model.mesh, model.pipeline, model.parts) == (None, None, [model.model])
    assert model.summed(torch.tensor(3.0)) == 3
    weights = model.whole_weights()
    assert weights is not None
    assert set(weights) == set(model.model.state_dict())
