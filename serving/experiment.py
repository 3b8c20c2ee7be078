"""Experiment: versions of a release compared by what came of their answers, one value a user, whenever one looks.

What counts is what became known since the newest state of the release: shares that change begin a new comparison. A
user who met several versions, because requests came without `X-Unit`, is left out and counted.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean, variance

from serving.always_valid import Comparison, Sample, compare, ratio_p_value
from serving.outcomes import Outcome
from serving.shares import ExperimentSpec, Shares

FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)
RATIO_LEVEL = 0.001
"""Below it, the numbers of users do not fit the shares."""


@dataclass(frozen=True)
class Result:
    """What was found."""

    samples: dict[str, Sample]
    """Of each version that has a share."""
    comparisons: dict[str, Comparison]
    """Of each version but the main one."""
    ratio_p_value: float
    num_left_out: int
    """Users who met several versions."""

    @property
    def fits_shares(self) -> bool:
        """Whether versions have users as their shares say; if not, something loses them, and means mislead."""
        return self.ratio_p_value >= RATIO_LEVEL

    def lines(self, level: float) -> list[str]:
        """For people: effect, interval and decision of each version."""
        main, *_ = self.samples
        lines = [f"  {main}: mean outcome {_told(self.samples[main])}, the main version"]
        for version, found in self.comparisons.items():
            decision = "better" if found.low > 0 else "worse" if found.high < 0 else "not decided yet"
            lines.append(
                f"  {version}: mean outcome {_told(self.samples[version])}, effect {found.effect:+.4f} "
                f"({found.low:+.4f} to {found.high:+.4f} at {1 - level:.0%}, p {found.p_value:.3g}): {decision}"
            )
        if not self.fits_shares:
            lines.append(
                f"  mind: the numbers of users do not fit the shares (p {self.ratio_p_value:.2g}); users are lost, or "
                "dealt otherwise: find out why before you believe the effect"
            )
        if self.num_left_out:
            lines.append(f"  {self.num_left_out:,} users met several versions and are left out; send X-Unit with all")
        return lines


def loss_of(result: Result | None, version: str, max_loss: float) -> str:
    """Why a version is to be rolled back for what came of its answers; empty where that is not clear, or not so."""
    found = result.comparisons.get(version) if result else None
    if found is None or not found.high < -max_loss:
        return ""
    return (
        f"what came of its answers is worse by {-found.effect:.4g} ({-found.high:.4g} at least), and may be by "
        f"{max_loss:g}"
    )


def evaluate(outcomes: Iterable[Outcome], state: Shares, asked: ExperimentSpec) -> Result | None:
    """Compare the versions that have a share; None where only one has, or nothing was said yet."""
    shares = {version: share for version, share in state.shares.items() if share}
    units: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    since = datetime.fromisoformat(state.made_at) if state.made_at else FIRST_MOMENT
    for outcome in outcomes:
        if outcome.at >= since and outcome.version in shares:
            units[outcome.unit][outcome.version].append(outcome.value)
    if len(shares) < 2 or not units:
        return None
    values: dict[str, list[float]] = {version: [] for version in shares}
    for by_version in units.values():
        if len(by_version) == 1:
            [(version, given)] = by_version.items()
            values[version].append(fmean(given))
    samples = {version: _sample(given) for version, given in values.items()}
    main = next(iter(shares))
    return Result(
        samples,
        {
            version: compare(samples[main], sample, asked.expected_effect, asked.level, asked.min_users)
            for version, sample in samples.items()
            if version != main
        },
        ratio_p_value([len(given) for given in values.values()], list(shares.values())),
        sum(len(by_version) > 1 for by_version in units.values()),
    )


def _sample(values: list[float]) -> Sample:
    spread = variance(values) if len(values) > 1 else 0.0
    return Sample(len(values), fmean(values) if values else 0.0, spread)


def _told(sample: Sample) -> str:
    return f"{sample.mean:.4f} of {sample.num_units:,} users"
