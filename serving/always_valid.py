"""Tests that may be looked at at any time: their promised level holds however often, and whenever, one stops.

Pure. Two versions' means are compared by the mixture sequential probability ratio test (Johari, Koomen, Pekelis and
Walsh, 2022, Always Valid Inference, Operations Research 70(3)), the numbers of units by a mixture of multinomials
(Lindon and Malek, 2022, Anytime-Valid Inference for Multinomial Count Data, NeurIPS).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

RATIO_CONCENTRATION = 100.0
"""Of the mixture over shares: how many units' worth of belief that they are the wanted ones."""


@dataclass(frozen=True)
class Sample:
    """What is known of a version's units, each with one value."""

    num_units: int
    mean: float
    variance: float
    """Of single units, with n - 1."""


@dataclass(frozen=True)
class Comparison:
    """A version beside the main one."""

    effect: float
    """How much higher its mean is."""
    low: float
    high: float
    """Where the true effect lies, at the promised level, whenever one looks; endless where too little is known."""
    p_value: float
    """At most 1, and at most the level only with that probability if there is no effect, whenever one looks."""

    @property
    def is_decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def compare(main: Sample, other: Sample, expected_effect: float, level: float, min_units: int) -> Comparison:
    """How much better another version is, with an interval that may be looked at at any time.

    Args:
        expected_effect: the size of effect that is to be found soonest: the standard deviation of the normal mixture.
            Any other is found, too, only later.
        level: of false alarms, over all looks together.
        min_units: of each version. With fewer, nothing is said: the test rests on means that are nearly normal.
    """
    effect = other.mean - main.mean
    if min(main.num_units, other.num_units) < max(min_units, 2):
        return Comparison(effect, -math.inf, math.inf, 1.0)
    variance = main.variance / main.num_units + other.variance / other.num_units
    mixture = expected_effect**2
    if variance == 0:  # all units of each version are alike
        return Comparison(effect, effect, effect, 1.0 if effect == 0 else 0.0)
    log_ratio = 0.5 * math.log(variance / (variance + mixture))
    log_ratio += mixture * effect**2 / (2 * variance * (variance + mixture))
    bound = math.log(1 / level) + 0.5 * math.log((variance + mixture) / variance)
    reach = math.sqrt(2 * variance * (variance + mixture) / mixture * bound)
    return Comparison(effect, effect - reach, effect + reach, min(1.0, math.exp(-log_ratio)))


def ratio_p_value(counts: Sequence[int], shares: Sequence[float]) -> float:
    """How likely units are to part so unevenly or more, whenever one looks, if they are dealt by these shares.

    A small one says that units are lost, or dealt otherwise, so that versions are not to be compared.

    Args:
        counts: units of each version.
        shares: what each was to get, above 0; they add up to 1.
    """
    weights = [RATIO_CONCENTRATION * share for share in shares]
    log_factor = math.lgamma(sum(weights)) - math.lgamma(sum(weights) + sum(counts))
    for count, weight, share in zip(counts, weights, shares, strict=True):
        log_factor += math.lgamma(weight + count) - math.lgamma(weight) - count * math.log(share)
    return min(1.0, math.exp(-log_factor)) if log_factor < 700 else 0.0
