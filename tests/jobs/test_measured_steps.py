"""Measured steps beside bytes that are known: of tensors, and of what a model and its optimizer must hold at least."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch

from cluster.spec import with_values
from jobs import prepare
from jobs.fit import CPU, set_up
from jobs.lineage import prepared_folder
from jobs.measured_steps import Change, Measured, highest, measure, peak_of
from jobs.parallel.collectives import rank, world_size
from tests.jobs.conftest import Ring
from tests.jobs.parallel.workers import run_together

MIB = 2**20
LAYOUTS = ({"replicate": 2}, {"shard": 2})
OVERRIDES = ("prepare.in_process_bytes=1000000", "workload.embedding_dim=64", "train.optimizer.name=adamw")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Ring:
    """A ring whose rows are prepared in this process."""
    ring = Ring(tmp_path_factory.mktemp("ring"))
    prepare.run(ring.spec(*OVERRIDES), ring.storage)
    return ring


def measured(ring: Ring, *overrides: str) -> Measured:
    spec = ring.spec(*OVERRIDES, *overrides)
    return measure(spec, ring.storage, prepared_folder(spec, ring.storage), 3, CPU)


def test_the_peak_is_the_most_that_is_held_at_a_time() -> None:
    def work() -> str:
        first = torch.zeros(MIB, dtype=torch.uint8)
        second = torch.zeros(2 * MIB, dtype=torch.uint8)
        del first
        third = torch.zeros(4 * MIB, dtype=torch.uint8)
        del second, third
        return "done"

    assert peak_of(work, CPU) == ("done", 6 * MIB)
    assert peak_of(work, CPU) == ("done", 6 * MIB)


def test_what_the_backward_pass_takes_in_c_counts() -> None:
    weight = torch.zeros(1024, 256, requires_grad=True)
    _, peak_bytes = peak_of(lambda: (weight * 2).exp().sum().backward(), CPU)
    assert 2 * MIB <= peak_bytes <= 4 * MIB  # what exp came to, its gradient and the weight's


def test_what_another_thread_gave_back_is_gone_when_its_place_is_given_out_again() -> None:
    assert highest([Change(0, 0, 8), Change(1, 8, 8), Change(2, 0, -8), Change(3, 0, 4)]) == 16
    assert highest([Change(0, 0, 8), Change(1, 8, 8), Change(2, 4, 8), Change(3, 16, 4)]) == 16
    assert highest([Change(0, 8, 8), Change(1, 0, 16), Change(2, 0, -16), Change(3, 4, 8)]) == 16
    assert highest([]) == 0


def test_one_worker_holds_weights_gradients_and_two_moments_at_least(ready: Ring) -> None:
    found = measured(ready, "layout={}")
    spec = ready.spec(*OVERRIDES, "layout={}")
    model = set_up(spec, ready.storage, prepared_folder(spec, ready.storage), CPU).parted.model
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    assert len(found.step_s) == 3
    assert min(found.step_s) > 0
    assert found.median_s == sorted(found.step_s)[1]
    assert len(found.peak_bytes) == 1
    assert 4 * weights < found.peak_bytes[0] < 4 * weights + 100 * MIB
    assert measured(ready, "layout={}").peak_bytes == found.peak_bytes


def test_steps_go_on_over_the_end_of_an_epoch(ready: Ring) -> None:
    assert len(measured(ready, "layout={}", "train.batch_size=1920").step_s) == 3


def write_measured(folder: Path, ring: Ring) -> None:
    found = []
    for layout in LAYOUTS:
        spec = with_values(ring.spec(*OVERRIDES, "layout={}"), {f"layout.{axis}": n for axis, n in layout.items()})
        assert spec.layout.num_workers == world_size()
        found.append(asdict(measure(spec, ring.storage, prepared_folder(spec, ring.storage), 3, CPU)))
    (folder / f"{rank()}.json").write_text(json.dumps(found))


def test_every_worker_is_told_of_all_and_shards_hold_less(ready: Ring, tmp_path: Path) -> None:
    run_together(2, partial(write_measured, ring=ready), tmp_path)
    first, second = (json.loads((tmp_path / f"{worker}.json").read_text()) for worker in range(2))
    assert first == second
    replicated, sharded = (Measured(tuple(each["step_s"]), tuple(each["peak_bytes"])) for each in first)
    assert len(replicated.peak_bytes) == len(sharded.peak_bytes) == 2
    # The least: on a busy machine a message that gloo gives back late may count as held (see `highest`).
    assert min(sharded.peak_bytes) < min(replicated.peak_bytes)
    assert len(replicated.step_s) == 3
