"""precision: matrix products in half precision, weights and sums in single (Micikevicius et al., 2018)."""

from contextlib import AbstractContextManager, nullcontext

import torch

from cluster.layout import Precision

DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_LOSS_SCALE = 65536.0
GROWTH_STEPS = 2000
"""Steps without an overflow after which the scale is doubled."""


def lowered(precision: Precision, device_type: str) -> AbstractContextManager[object]:
    """The context in which a forward and backward pass runs."""
    return torch.autocast(device_type, DTYPES[precision]) if precision in DTYPES else nullcontext()


def next_loss_scale(scale: float, good_steps: int, overflowed: bool) -> tuple[float, int]:
    """The scale of the next step's loss and how many steps went well under it: halved by an overflow, else doubled
    now and then, so that small gradients stay above the least number of fp16."""
    if overflowed:
        return scale / 2, 0
    return (scale * 2, 0) if good_steps + 1 == GROWTH_STEPS else (scale, good_steps + 1)
