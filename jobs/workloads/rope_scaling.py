"""Rotary positions stretched for texts longer than those a model first learned on, as Llama 3.1 does it.

Grattafiori et al., 2024, section 3.4.2, in the form of the model's published code: pairs of features that turn fast
stay as they are, slow ones turn `factor` times slower, and those between partly so.
"""

import math

from pydantic import Field, model_validator
from torch import Tensor

from cluster.spec import Spec


class RopeScalingSpec(Spec):
    """How far, and which pairs."""

    factor: float = Field(8.0, ge=1)
    """So many times slower turn the slow pairs."""
    low_frequency_factor: float = Field(1.0, gt=0)
    """A pair that turns round fewer times than this within `original_context_length` is slow."""
    high_frequency_factor: float = Field(4.0, gt=0)
    """One that turns round more often than this stays as it is."""
    original_context_length: int = Field(8192, ge=1)
    """Positions that the model first learned on."""

    @model_validator(mode="after")
    def _ordered(self) -> "RopeScalingSpec":
        if self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor={self.low_frequency_factor:g} is not below high_frequency_factor="
                f"{self.high_frequency_factor:g}, and what lies between them turns partly slower; "
                "give a lower low_frequency_factor, such as 1 where the other is 4"
            )
        return self


def slowed(speed: Tensor, scaling: RopeScalingSpec) -> Tensor:
    """The radians a position that each pair turns by [head_dim / 2], float32, both ways."""
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    turns = scaling.original_context_length * speed / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * speed / scaling.factor + kept * speed
