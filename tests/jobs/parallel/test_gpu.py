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
"""Relative, of the loss: sums in another order, and 8 (bf16) or 11 (fp16) significant bits in matrix products."""


@pytest.mark.parametrize(
    ("layout", "tolerance"),
    [
        ({}, FP32_TOLERANCE),
        ({"recompute": True}, FP32_TOLERANCE),
        ({"accumulation": 2}, FP32_TOLERANCE),
        ({"compile": True}, FP32_TOLERANCE),
        ({"precision": "bf16"}, HALF_TOLERANCE),
        ({"precision": "fp16"}, HALF_TOLERANCE),
        ({"precision": "bf16", "recompute": True, "compile": True}, HALF_TOLERANCE),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["language", "vision", "tabular"])
def test_a_gpu_has_the_loss_of_the_cpu(name: str, layout: dict[str, Any], tolerance: float) -> None:
    expected = curve(sample(name), Layout(), "sgd", device=CPU)
    try:
        found = curve(sample(name), Layout(**layout), "sgd", device=GPU)
    finally:
        torch.compiler.reset()
    if layout.get("precision") == "fp16":  # the first steps may be left out while the loss scale finds its size
        assert found.losses[0] == pytest.approx(expected.losses[0], rel=tolerance)
        assert found.losses[-1] < found.losses[0]
    else:
        assert found.losses == pytest.approx(expected.losses, rel=tolerance)
