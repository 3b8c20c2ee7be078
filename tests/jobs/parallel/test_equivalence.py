"""The project's first promise: on every layout the loss and the gradient of one process, step by step."""

import json
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cluster.layout import Layout
from tests.jobs.parallel.training import NUM_STEPS, Curve, curve, sample, write_all_curves, write_curves
from tests.jobs.parallel.workers import TIMEOUT_S, run_together

OPTIMIZERS = ("sgd", "adamw")
TOLERANCE = 1e-5
"""Relative, of loss and gradient norm."""

ANY_MODEL: list[dict[str, Any]] = [
    {"accumulation": 2},
    {"replicate": 2},
    {"replicate": 4, "accumulation": 2},
    {"shard": 2},
    {"shard": 4, "accumulation": 2},
    {"replicate": 2, "shard": 2},
    {"shard": 2, "recompute": True},
]
CHAINS: list[dict[str, Any]] = [
    {"recompute": True},
    *(
        {"pipeline": 2, "micro_batches": 4, "schedule": schedule}
        for schedule in ("gpipe", "1f1b", "interleaved_1f1b", "interleaved_zero_bubble", "zbv")
    ),
    {"pipeline": 2, "micro_batches": 2, "recompute": True},
    {"pipeline": 2, "micro_batches": 2, "accumulation": 2, "shard": 2},
    {"pipeline": 2, "micro_batches": 4, "replicate": 2, "schedule": "interleaved_1f1b"},
    {"pipeline": 2, "micro_batches": 4, "shard": 2, "schedule": "zbv"},
]
MATRICES: list[dict[str, Any]] = [
    {"tensor": 2},
    {"tensor": 2, "replicate": 2, "accumulation": 2},
    {"tensor": 2, "shard": 2},
    {"tensor": 2, "pipeline": 2, "micro_batches": 4, "schedule": "interleaved_zero_bubble"},
    {"tensor": 2, "pipeline": 2, "shard": 2, "micro_batches": 4},
    {"tensor": 2, "pipeline": 2, "replicate": 2, "micro_batches": 2, "schedule": "zbv"},
]
SEQUENCES: list[dict[str, Any]] = [
    {"tensor": 2, "sequence_parallel": True},
    {"tensor": 2, "sequence_parallel": True, "shard": 2, "recompute": True},
    {"tensor": 2, "sequence_parallel": True, "pipeline": 2, "micro_batches": 2},
    {"tensor": 2, "sequence_parallel": True, "pipeline": 2, "shard": 2, "micro_batches": 4, "schedule": "zbv"},
    {"context": 2},
    {"context": 4},
    {"context": 2, "shard": 2},
    {"context": 2, "replicate": 2},
    {"context": 2, "tensor": 2},
    {"context": 2, "pipeline": 2, "micro_batches": 4, "schedule": "interleaved_1f1b"},
    {"context": 2, "shard": 2, "tensor": 2},
    {"context": 2, "shard": 2, "replicate": 2},
    {"context": 2, "tensor": 2, "sequence_parallel": True, "pipeline": 2, "micro_batches": 2},
]

CASES = {
    "language": [
        *ANY_MODEL,
        *CHAINS,
        *MATRICES,
        *SEQUENCES,
        {"pipeline": 4, "micro_batches": 4},
        {"pipeline": 4, "micro_batches": 8, "schedule": "interleaved_1f1b"},
        {"pipeline": 4, "micro_batches": 8, "schedule": "zbv"},
    ],
    "language_tied": [
        {"shard": 2},
        {"tensor": 2, "shard": 2},
        {"context": 2, "replicate": 2},
        {"context": 2, "shard": 2, "tensor": 2},
    ],
    # Biases of split layers, and norms of heads whose weight all tensor peers share.
    "language_qwen": [
        {"tensor": 2},
        {"tensor": 2, "shard": 2},
        {"tensor": 2, "sequence_parallel": True, "context": 2},
    ],
    "language_lstm": [
        {"shard": 2, "recompute": True, "accumulation": 2},
        {"pipeline": 2, "micro_batches": 4, "schedule": "zbv"},
        {"pipeline": 2, "micro_batches": 2, "shard": 2},
    ],
    "language_gru": [{"replicate": 2, "shard": 2}],
    "tabular": [*ANY_MODEL, *CHAINS, *MATRICES],
    "text": [
        {"accumulation": 2},
        {"replicate": 2},
        {"shard": 2, "recompute": True},
        {"tensor": 2},
        {"pipeline": 2, "micro_batches": 4, "schedule": "zbv"},
        {"tensor": 2, "pipeline": 2, "micro_batches": 2},
    ],
    "tagging": [
        {"replicate": 2, "accumulation": 2},
        {"shard": 2, "recompute": True},
        {"tensor": 2},
        {"pipeline": 2, "micro_batches": 4, "schedule": "zbv"},
    ],
    # A ReLU's gradient jumps at 0. Of the half million activations of a step in float32 one may lie so near to it that
    # two right orders of summation take different sides, after which the losses part: 3e-5 of the gradient was seen.
    "vision_float64": [*ANY_MODEL, *CHAINS],
    "gan_float64": ANY_MODEL,
    "recommender": [layout for layout in ANY_MODEL if "recompute" not in layout],
    "tabular_augmented": [{"replicate": 2}],
    "vision_float64_augmented": [{"pipeline": 2, "micro_batches": 4, "accumulation": 2}],
    "language_augmented": [{"context": 2}, {"shard": 2}],
}


@cache
def alone(name: str, optimizer: str) -> Curve:
    return curve(sample(name), Layout(), optimizer)


def differences(name: str, found: dict[str, Any]) -> dict[str, float]:
    """The largest relative difference from one process, by optimizer and quantity."""
    return {
        f"{optimizer} {quantity}": max(
            abs(got - wanted) / abs(wanted)
            for got, wanted in zip(values, getattr(alone(name, optimizer), quantity), strict=True)
        )
        for optimizer, curves in found.items()
        for quantity, values in curves.items()
    }


@cache
def together(name: str, num_workers: int) -> tuple[dict[Layout, list[dict[str, Any]]], Exception | None]:
    """What each worker found on each layout of so many, one layout after another: to start workers takes the longest.

    Of layouts that came after an error, which is there too, there is nothing.
    """
    layouts = [layout for given in CASES[name] if (layout := Layout(**given)).num_workers == num_workers]
    found: dict[Layout, list[dict[str, Any]]] = {}
    error: Exception | None = None
    with TemporaryDirectory() as folder:
        work = partial(write_all_curves, name=name, layouts=layouts, optimizers=OPTIMIZERS)
        try:
            if num_workers > 1:
                run_together(num_workers, work, Path(folder), TIMEOUT_S * len(layouts))
            else:
                work(Path(folder))
        except Exception as caught:
            error = caught
        for number, layout in enumerate(layouts):
            written = [Path(folder) / str(number) / f"{rank}.json" for rank in range(num_workers)]
            if all(path.exists() for path in written):
                found[layout] = [json.loads(path.read_text()) for path in written]
    return found, error


@pytest.mark.equivalence
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        pytest.param(name, Layout(**given), id=f"{name}-{Layout(**given).line()}".replace(" ", ","))
        for name, layouts in CASES.items()
        for given in layouts
    ],
)
def test_a_layout_has_the_loss_and_gradient_of_one_process(name: str, layout: Layout) -> None:
    curves, error = together(name, layout.num_workers)
    if layout not in curves and error:
        raise error
    for worker, found in enumerate(curves[layout]):
        assert set(found) == set(OPTIMIZERS)
        assert all(len(values) == NUM_STEPS for one in found.values() for values in one.values())
        apart = differences(name, found)
        assert max(apart.values()) < TOLERANCE, (worker, apart)


@pytest.mark.parametrize("name", ["tabular", "vision_float64", "language"])
def test_what_augmentation_changes_is_seen(name: str) -> None:
    plain, augmented = alone(name, "sgd"), alone(f"{name}_augmented", "sgd")
    apart = [abs(one - other) / one for one, other in zip(plain.losses, augmented.losses, strict=True)]
    assert min(apart) > 10 * TOLERANCE
    assert max(apart) > 100 * TOLERANCE


@pytest.mark.equivalence
@pytest.mark.parametrize(
    ("fault", "layout"),
    [
        ("gradients times micro-batches", Layout(pipeline=2, micro_batches=4)),
        ("other rows for tensor peers", Layout(tensor=2)),
        ("a repeated row", Layout(replicate=2)),
        ("a repeated row", Layout()),
    ],
)
def test_a_planted_fault_is_seen_at_every_optimizer(fault: str, layout: Layout, tmp_path: Path) -> None:
    work = partial(write_curves, name="language", layout=layout, optimizers=OPTIMIZERS, fault=fault)
    if layout.num_workers > 1:
        run_together(layout.num_workers, work, tmp_path)
    else:
        work(tmp_path)
    apart = differences("language", json.loads((tmp_path / "0.json").read_text()))
    for optimizer in OPTIMIZERS:
        assert max(value for name, value in apart.items() if name.startswith(optimizer)) > 100 * TOLERANCE, apart


@pytest.mark.equivalence
def test_the_loss_under_clipping_alone_would_not_see_a_gradient_of_the_wrong_size(tmp_path: Path) -> None:
    fault, layout = "gradients times micro-batches", Layout(pipeline=2, micro_batches=4)
    run_together(2, partial(write_curves, name="language", layout=layout, optimizers=("adamw",), fault=fault), tmp_path)
    apart = differences("language", json.loads((tmp_path / "0.json").read_text()))
    assert apart["adamw losses"] < TOLERANCE
    assert apart["adamw norms"] == pytest.approx(layout.micro_batches - 1, rel=1e-3)
