import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from cluster.layout import Layout
from jobs.parallel.collectives import rank
from jobs.parallel.feed import Feed
from jobs.parallel.gradients import clip_factor, gradient_norm, scale_gradients
from jobs.parallel.mesh import num_averaged
from tests.jobs.parallel.training import BATCH_SIZE, CPU, parted, sample, source
from tests.jobs.parallel.workers import run_together


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = [torch.zeros(size, requires_grad=True) for size in (3, 5, 7)]
    for weight in found[:2]:  # the last one got no gradient
        weight.grad = torch.randn(weight.shape, generator=generator)
    return found


def test_the_norm_is_that_of_all_gradients_together() -> None:
    given = weights()
    expected = get_total_norm([weight.grad for weight in given if weight.grad is not None])
    torch.testing.assert_close(gradient_norm(given, None), expected)


def test_no_gradient_has_the_norm_0() -> None:
    assert gradient_norm([torch.zeros(3, requires_grad=True)], None) == 0


@pytest.mark.parametrize("most", [0.1, 1e9])
def test_clipping_is_that_of_pytorch(most: float) -> None:
    ours, theirs = weights(), weights()
    norm = gradient_norm(ours, None)
    scale_gradients(ours, clip_factor(norm, most))
    clip_grads_with_norm_(theirs, most, norm)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def norms(layout: Layout) -> list[float]:
    """Before and after the gradients of one step are halved."""
    model = parted(sample("language"), layout)
    feed = Feed(source(sample("language")), layout, rank(), 0, BATCH_SIZE, CPU)
    rows = next(feed.epoch(0, 0))
    scale = num_averaged(layout) / rows.num_rows
    model.backward([batch | {"weight": batch["weight"] * scale} for batch in rows.passes])
    parameters = list(model.model.parameters())
    whole = float(gradient_norm(parameters, model.mesh))
    scale_gradients(parameters, 0.5)
    return [whole, float(gradient_norm(parameters, model.mesh))]


def write_norms(folder: Path, layout: Layout) -> None:
    (folder / f"{rank()}.json").write_text(json.dumps(norms(layout)))


@pytest.mark.parametrize(
    "layout",
    [
        {"shard": 2},
        {"tensor": 2, "sequence_parallel": True},
        {"pipeline": 2, "micro_batches": 2},
        {"shard": 2, "tensor": 2},
    ],
    ids=str,
)
def test_the_norm_over_workers_is_that_of_one_process(layout: dict[str, Any], tmp_path: Path) -> None:
    given = Layout(**layout)
    run_together(given.num_workers, partial(write_norms, layout=given), tmp_path)
    whole, halved = norms(Layout())
    assert halved == pytest.approx(whole / 2, rel=1e-6)
    for worker in range(given.num_workers):
        assert json.loads((tmp_path / f"{worker}.json").read_text()) == pytest.approx([whole, halved], rel=1e-5)
