import math

import pytest
import torch

from cluster.errors import SpecError
from cluster.spec import check
from jobs.workloads.rope_scaling import RopeScalingSpec, slowed
from jobs.workloads.transformer import rotary_angle

LLAMA = RopeScalingSpec(factor=8, low_frequency_factor=1, high_frequency_factor=4, original_context_length=8192)


def by_wave_length(speed: float, scaling: RopeScalingSpec) -> float:
    """Case by case, as the paper's code tells it: by how many positions a pair takes to turn round."""
    length, longest = 2 * math.pi / speed, scaling.original_context_length
    if length < longest / scaling.high_frequency_factor:
        return speed
    if length > longest / scaling.low_frequency_factor:
        return speed / scaling.factor
    smooth = (longest / length - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    return (1 - smooth) * speed / scaling.factor + smooth * speed


def test_fast_pairs_stay_slow_ones_turn_slower_and_those_between_partly() -> None:
    speed = 500_000.0 ** (-2 * torch.arange(64, dtype=torch.float64) / 128)
    expected = torch.tensor([by_wave_length(one, LLAMA) for one in speed.tolist()], dtype=torch.float64)
    found = slowed(speed, LLAMA)
    torch.testing.assert_close(found, expected)
    ratios = (speed / found).tolist()
    assert ratios[0] == 1
    assert ratios[-1] == pytest.approx(8)
    assert any(1.1 < ratio < 7.9 for ratio in ratios)


def test_angles_are_those_of_the_slowed_pairs() -> None:
    position = torch.tensor([0, 1, 5000])
    speed = rotary_angle(torch.tensor([1]), 64, 500_000.0)
    found = rotary_angle(position, 64, 500_000.0, LLAMA)
    torch.testing.assert_close(found, position[:, None] * slowed(speed, LLAMA))


def test_factors_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(SpecError, match=r"low_frequency_factor=4 is not below high_frequency_factor=4.* give a lower"):
        check(RopeScalingSpec, {"low_frequency_factor": 4.0}, "test")
