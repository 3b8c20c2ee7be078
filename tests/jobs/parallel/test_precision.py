"""Half precision keeps the loss within its own tolerance, and the loss scale follows its rules."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from cluster.layout import Layout
from jobs.parallel.precision import FIRST_LOSS_SCALE, GROWTH_STEPS, lowered, next_loss_scale
from tests.jobs.parallel.training import curve, sample, write_curves
from tests.jobs.parallel.workers import run_together

BF16_TOLERANCE = 2e-2
"""Of the first loss: bfloat16 has 8 significant bits, and errors of single products average out. A falling loss does
not take the error of its logits down with it."""


def test_fp32_is_left_alone_and_bf16_lowers_matrix_products_only() -> None:
    matrix = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with lowered(precision, "cpu"):  # type: ignore[arg-type]
            assert (matrix @ matrix).dtype == dtype
            assert matrix.exp().dtype == torch.float32


@pytest.mark.parametrize("name", ["language", "vision", "tabular"])
def test_bf16_has_the_loss_of_fp32_within_its_tolerance(name: str) -> None:
    exact = curve(sample(name), Layout(), "sgd").losses
    rough = curve(sample(name), Layout(precision="bf16"), "sgd").losses
    assert rough != exact
    assert rough == pytest.approx(exact, abs=BF16_TOLERANCE * exact[0])


def test_bf16_on_two_layouts_agrees_within_its_tolerance(tmp_path: Path) -> None:
    layout = Layout(tensor=2, precision="bf16")
    run_together(2, partial(write_curves, name="language", layout=layout, optimizers=("sgd",)), tmp_path)
    found = json.loads((tmp_path / "0.json").read_text())["sgd"]["losses"]
    alone = curve(sample("language"), Layout(precision="bf16"), "sgd").losses
    assert found == pytest.approx(alone, abs=BF16_TOLERANCE * alone[0])


def test_an_overflow_halves_the_loss_scale_and_begins_the_count_anew() -> None:
    assert next_loss_scale(FIRST_LOSS_SCALE, 1234, overflowed=True) == (FIRST_LOSS_SCALE / 2, 0)


def test_the_loss_scale_doubles_after_enough_good_steps() -> None:
    scale, good_steps = 8.0, 0
    for _ in range(GROWTH_STEPS - 1):
        scale, good_steps = next_loss_scale(scale, good_steps, overflowed=False)
    assert (scale, good_steps) == (8.0, GROWTH_STEPS - 1)
    assert next_loss_scale(scale, good_steps, overflowed=False) == (16.0, 0)
