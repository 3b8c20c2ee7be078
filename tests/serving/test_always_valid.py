"""The tests beside numerical integration, scipy and simulated users."""

import math

import numpy as np
import pytest
from scipy import stats

from serving.always_valid import RATIO_CONCENTRATION, Comparison, Sample, compare, ratio_p_value

EFFECT, LEVEL = 0.1, 0.05


def sample(values: np.ndarray) -> Sample:
    return Sample(len(values), float(values.mean()), float(values.var(ddof=1)))


def compared(main: np.ndarray, other: np.ndarray, min_units: int = 100) -> Comparison:
    return compare(sample(main), sample(other), EFFECT, LEVEL, min_units)


@pytest.mark.parametrize(("effect", "num"), [(0.0, 150), (0.05, 400), (0.2, 1000), (-0.1, 3000)])
def test_the_p_value_is_one_over_the_mixture_of_likelihood_ratios(effect: float, num: int) -> None:
    main, other = Sample(num, 3.5, 1.0), Sample(2 * num, 3.5 + effect, 1.3)
    variance = 1.0 / num + 1.3 / (2 * num)
    possible = np.linspace(-2, 2, 400_001)
    ratios = np.exp(possible * effect / variance - possible**2 / (2 * variance)) * stats.norm.pdf(possible, 0, EFFECT)
    ratio = np.trapezoid(ratios, possible)
    assert compare(main, other, EFFECT, LEVEL, 100).p_value == pytest.approx(min(1.0, 1 / ratio), rel=1e-6)


def test_the_interval_leaves_out_0_where_the_p_value_is_below_the_level() -> None:
    draw = np.random.default_rng(0)
    decided = 0
    for _ in range(300):
        found = compared(draw.normal(0, 1, 500), draw.normal(draw.normal(0, 0.2), 1, 700))
        assert found.is_decided == (found.p_value < LEVEL)
        assert found.low < found.effect < found.high
        decided += found.is_decided
    assert 30 < decided < 270


def test_looking_after_every_batch_gives_no_more_false_alarms_than_promised() -> None:
    draw, alarms, naive = np.random.default_rng(1), 0, 0
    for _ in range(400):
        main, other = draw.exponential(1.0, (2, 3000))  # of another form than normal
        looks = range(100, 3001, 100)
        alarms += any(compared(main[:n], other[:n]).is_decided for n in looks)
        naive += any(stats.ttest_ind(main[:n], other[:n]).pvalue < LEVEL for n in looks)
    assert alarms / 400 <= LEVEL
    assert naive / 400 > 3 * LEVEL  # which is why


def test_a_true_effect_is_found_with_its_sign_and_lies_in_the_interval() -> None:
    draw = np.random.default_rng(2)
    found = [compared(draw.normal(3.5, 1, 8000), draw.normal(3.4, 1, 8000)) for _ in range(60)]
    assert sum(one.high < 0 for one in found) > 54
    assert sum(one.low <= -0.1 <= one.high for one in found) > 56


def test_few_units_say_nothing() -> None:
    found = compared(np.zeros(99), np.full(1000, 5.0))
    assert (found.low, found.high, found.p_value) == (-math.inf, math.inf, 1.0)
    assert not found.is_decided
    assert not compare(Sample(0, 0.0, 0.0), Sample(1, 5.0, 0.0), EFFECT, LEVEL, 1).is_decided


def test_units_that_are_all_alike_are_compared() -> None:
    assert compared(np.full(200, 4.0), np.full(200, 4.0)).p_value == 1.0
    assert compared(np.full(200, 4.0), np.full(200, 5.0)).is_decided


@pytest.mark.parametrize("counts", [(480, 520), (900, 100), (0, 5), (10_000, 9_000)])
def test_the_ratio_is_that_of_two_multinomials_of_scipy(counts: tuple[int, int]) -> None:
    shares = [0.5, 0.5]
    mixed = stats.dirichlet_multinomial.logpmf(counts, [RATIO_CONCENTRATION / 2] * 2, sum(counts))
    plain = stats.multinomial.logpmf(counts, sum(counts), shares)
    assert ratio_p_value(counts, shares) == pytest.approx(min(1.0, math.exp(plain - mixed)), rel=1e-6)


def test_shares_that_are_kept_raise_no_alarm_and_others_do() -> None:
    draw, shares = np.random.default_rng(3), [0.7, 0.2, 0.1]
    alarms = 0
    for _ in range(2000):
        dealt = draw.multinomial(50, shares, 100).cumsum(0)
        alarms += any(ratio_p_value(row.tolist(), shares) < 0.01 for row in dealt)
    assert alarms / 2000 <= 0.019  # 0.01 and four standard errors
    assert ratio_p_value([6700, 2000, 1300], shares) < 1e-6
    assert ratio_p_value([10**7, 1, 1], shares) == 0.0
