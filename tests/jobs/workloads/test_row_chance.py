import pytest
import torch
from scipy import stats

from jobs.workloads.row_chance import _mixed, normal, uniform

GOLDEN = 0x9E3779B97F4A7C15  # by which SplitMix64's state grows
KEYS = torch.arange(1000) ^ 0x5DEECE66D


def test_the_hash_is_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]  # seed 1234567
    states = [1234567 + (step + 1) * GOLDEN for step in range(4)]
    wrapped = torch.tensor([(state + 2**63) % 2**64 - 2**63 for state in states])
    assert [value % 2**64 for value in _mixed(wrapped).tolist()] == published


def test_numbers_are_spread_evenly_from_0_to_below_1() -> None:
    drawn = uniform(KEYS, 100, 1)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3


def test_normal_numbers_are_of_the_standard_normal_distribution() -> None:
    assert stats.kstest(normal(KEYS, 100, 1).flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_row_draws_the_same_wherever_it_stands_and_other_rows_and_salts_others(draw: object) -> None:
    assert callable(draw)
    whole = draw(KEYS, 7, 3)
    torch.testing.assert_close(draw(KEYS[5:6], 7, 3), whole[5:6])
    torch.testing.assert_close(draw(KEYS.flip(0), 7, 3), whole.flip(0))
    assert len(torch.unique(whole)) == pytest.approx(whole.numel(), rel=1e-3)
    other = draw(KEYS, 7, 4)
    assert abs(torch.corrcoef(torch.stack([whole.flatten(), other.flatten()]))[0, 1]) < 4 / whole.numel() ** 0.5
