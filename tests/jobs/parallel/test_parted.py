"""What a worker holds, and the whole model that all of them make."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from cluster.layout import Layout
from jobs.parallel.collectives import rank
from jobs.parallel.feed import Feed
from tests.jobs.parallel.training import BATCH_SIZE, CPU, parted, sample, source
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
    assert model.summed(torch.tensor(10.0 ** rank())) == sum(
        10**worker for worker in range(layout.num_workers) if layout.coordinate(worker).tensor == 0
    ), "tensor peers have the same rows"
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


class Messages(TorchDispatchMode):
    """Counts the sums of gradients that are sent."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "reduce" in str(function)
        return function(*args, **kwargs or {})


def count_messages(layout: Layout) -> int:
    """How many a step of these passes sends."""
    model = parted(sample("language"), layout)
    rows = next(Feed(source(sample("language")), layout, rank(), 0, BATCH_SIZE, CPU).epoch(0, 0))
    messages = Messages()
    (called,) = model.parts
    if isinstance(called, DistributedDataParallel):  # sends past the dispatcher
        called.register_comm_hook(messages, count_and_send)
    with messages:
        model.backward(rows.passes)
    return messages.count


def count_and_send(messages: Messages, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    messages.count += 1
    return allreduce_hook(dist.group.WORLD, bucket)


def check_messages(folder: Path) -> None:
    for axis in ("replicate", "shard"):
        once, several = (count_messages(Layout(accumulation=passes, **{axis: 2})) for passes in (1, 4))
        assert once == several > 0, (axis, once, several)
    (folder / str(rank())).touch()


def test_gradients_are_sent_with_the_last_pass_only(tmp_path: Path) -> None:
    run_together(2, check_messages, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"0", "1"}


def test_one_worker_needs_no_process_group() -> None:
    model = parted(sample("tabular"), Layout())
    assert (model.mesh, model.pipeline, model.parts) == (None, None, [model.model])
    assert model.summed(torch.tensor(3.0)) == 3
    weights = model.whole_weights()
    assert weights is not None
    assert set(weights) == set(model.model.state_dict())
