"""What a layout's workers ask of Ray; runs of them are in test_train, test_tune and test_failures."""

from pathlib import Path

import pytest
import torch

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.placement import Demand
from jobs.spec import RingSpec, load_ring
from jobs.worker_group import BACKENDS, Workers, device_here, workers_of

SPEC = Path(__file__).parents[2] / "jobs/specs/recommender.yaml"
FOUR = Layout(replicate=4)


def spec(*overrides: str) -> RingSpec:
    return load_ring(SPEC, ["storage=/nowhere", *overrides])


def test_gpus_are_taken_where_there_is_one_for_each_worker() -> None:
    taken = workers_of(spec(), FOUR, 4)
    assert taken == Workers(FOUR, Demand({"CPU": 1.0, "GPU": 1.0}))
    assert taken.on_gpu
    assert taken.backend == BACKENDS


def test_too_few_gpus_are_left_alone_unless_they_are_asked_for() -> None:
    assert workers_of(spec(), FOUR, 3) == Workers(FOUR, Demand({"CPU": 1.0}))
    assert workers_of(spec(), FOUR, 3).backend == "gloo"
    assert workers_of(spec("train.device=gpu"), FOUR, 3).device == "cuda"
    assert device_here("cpu") == torch.device("cpu")
    assert not workers_of(spec("train.device=cpu"), FOUR, 8).on_gpu


def test_workers_that_share_a_gpu_speak_by_gloo() -> None:
    shared = workers_of(spec("placement={gpus_per_worker: 0.5, gpu_type: H100, cpus_per_worker: 0.5}"), FOUR, 2)
    assert shared == Workers(FOUR, Demand({"CPU": 0.5, "GPU": 0.5}, "H100"))
    assert (shared.on_gpu, shared.backend) == (True, "gloo")


@pytest.mark.parametrize(
    ("overrides", "layout", "message"),
    [
        ([], Layout(precision="fp16"), r"layout.precision=fp16 needs a GPU for each of 1 workers, .* has 0; give"),
        (["placement.gpu_type=H100"], FOUR, r"placement.gpu_type=H100 needs a GPU for each of 4 workers.*; leave it"),
    ],
)
def test_what_needs_gpus_is_refused_without(overrides: list[str], layout: Layout, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        workers_of(spec(*overrides), layout, 0)
