"""One GPU beside the CPU: precision, compilation and recomputation. Skips itself where there is none."""

from typing import Any

import pytest
import torch

from cluster.layout import Layout
from tests.jobs.parallel.training import CPU, curve, sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default cuDNN rounds the inputs of fp32 convolutions to TF32, which has 11 significant bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


FP32_TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2
"""Of the first loss: sums in another order, and 8 (bf16) or 11 (fp16) significant bits in matrix products."""


def losses(name: str, layout: Layout) -> tuple[list[float], list[float]]:
    """On the GPU in this layout, and on the CPU."""
    expected = curve(sample(name), Layout(), "sgd", device=CPU)
    try:
        return curve(sample(name), layout, "sgd", device=GPU).losses, expected.losses
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize("layout", [{}, {"recompute": True}, {"accumulation": 2}, {"compile": True}], ids=str)
@pytest.mark.parametrize("name", ["language", "vision_float64", "tabular"])
def test_a_gpu_has_the_loss_of_the_cpu(name: str, layout: dict[str, Any]) -> None:
    found, expected = losses(name, Layout(**layout))
    assert found == pytest.approx(expected, abs=FP32_TOLERANCE * expected[0])


@pytest.mark.parametrize("more", [{}, {"recompute": True, "compile": True}], ids=str)
@pytest.mark.parametrize("name", ["language", "vision", "tabular"])
def test_bf16_on_a_gpu_has_the_loss_of_the_cpu_within_its_tolerance(name: str, more: dict[str, Any]) -> None:
    found, expected = losses(name, Layout(precision="bf16", **more))
    assert found == pytest.approx(expected, abs=HALF_TOLERANCE * expected[0])


@pytest.mark.parametrize("name", ["language", "vision", "tabular"])
def test_fp16_learns_once_its_loss_scale_has_found_its_size(name: str) -> None:
    found, expected = losses(name, Layout(precision="fp16"))
    assert found[0] == pytest.approx(expected[0], rel=HALF_TOLERANCE)
    assert found[-1] < found[0]
