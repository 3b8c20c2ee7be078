"""A/B tests of simulated users: false alarms when looked at after every batch, power, and time to decision.

    OMP_NUM_THREADS=1 python -m benchmarks.ab_simulation [--runs 1000]

Users are dealt by the hash that replicas deal requests by, each run with another salt; each rates once. The very
functions that `python -m serving.release status` calls decide. Writes the .md beside it. Needs the extra `test`.
"""

import argparse
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from scipy import stats

from serving.always_valid import Sample, compare, ratio_p_value
from serving.experiment import RATIO_LEVEL
from serving.shares import Shares

MEAN, SPREAD = 3.5, 1.0
"""Of ratings."""
EFFECT = 0.02 * MEAN
LEVEL, POWER, MIN_USERS = 0.05, 0.8, 100
BATCH, NUM_BATCHES = 400, 60
"""Users between two looks, of both versions together."""
NUM_FIXED = math.ceil(2 * (SPREAD / EFFECT) ** 2 * (stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(POWER)) ** 2)
"""Users of each version that a test of one look at its end needs."""


@dataclass(frozen=True)
class Run:
    """What one test came to."""

    decided_at: int | None
    """Users of both versions when the sequential test decided."""
    is_right: bool
    """Whether with the sign of the true effect."""
    peeked: bool
    """Whether a t-test looked at as often would have decided."""
    fixed: bool
    """Whether a t-test of the first `NUM_FIXED` of each version decides."""
    lost_users: bool
    """Whether the check of shares raised an alarm."""
    reassigned: int
    """Users that a second replica deals otherwise."""


def run(seed: int, effect: float) -> Run:
    """Users who come one after another."""
    state = Shares(deployed="a", shares={"a": 0.5, "b": 0.5}, salt=f"run {seed}")
    again = Shares.model_validate_json(state.model_dump_json())  # as another replica reads it
    users = [f"user {number}" for number in range(BATCH * NUM_BATCHES)]
    dealt = [state.version_of(user) for user in users]
    is_b = np.array([version == "b" for version in dealt])
    ratings = np.random.default_rng(seed).normal(MEAN, SPREAD, len(users)) + effect * is_b
    decided_at, is_right, peeked, lost = None, False, False, False
    for end in range(BATCH, len(users) + 1, BATCH):
        main, other = ratings[:end][~is_b[:end]], ratings[:end][is_b[:end]]
        lost |= ratio_p_value([len(main), len(other)], [0.5, 0.5]) < RATIO_LEVEL
        peeked |= bool(stats.ttest_ind(main, other).pvalue < LEVEL)
        if decided_at is None:
            found = compare(_sample(main), _sample(other), EFFECT, LEVEL, MIN_USERS)
            if found.is_decided:
                decided_at, is_right = end, found.effect * effect > 0
    main, other = ratings[~is_b][:NUM_FIXED], ratings[is_b][:NUM_FIXED]
    fixed = bool(stats.ttest_ind(main, other).pvalue < LEVEL)
    reassigned = sum(again.version_of(user) != version for user, version in zip(users[:200], dealt, strict=False))
    return Run(decided_at, is_right, peeked, fixed, lost, reassigned)


def _sample(values: np.ndarray) -> Sample:
    return Sample(len(values), float(values.mean()), float(values.var(ddof=1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    num = parser.parse_args().runs
    same = [run(seed, 0.0) for seed in range(num)]
    better = [run(num + seed, EFFECT) for seed in range(num)]
    decided = [one.decided_at for one in better if one.decided_at is not None]
    times = [one.decided_at or BATCH * NUM_BATCHES for one in better]
    rows = [
        (
            "sequential, looked at after every batch",
            [one.decided_at is not None for one in same],
            [one.decided_at is not None for one in better],
        ),
        ("t-test, looked at after every batch", [one.peeked for one in same], [one.peeked for one in better]),
        (
            f"t-test of {NUM_FIXED:,} users of each, looked at once",
            [one.fixed for one in same],
            [one.fixed for one in better],
        ),
    ]
    lines = [f"| {name} | {np.mean(wrong):.1%} | {np.mean(right):.1%} |" for name, wrong, right in rows]
    quarter, three_quarters = np.quantile(times, [0.25, 0.75])
    ratio, num_wrong = np.mean(times) / (2 * NUM_FIXED), sum(not one.is_right for one in better if one.decided_at)
    num_alarms, num_moved = (sum(getattr(one, what) for one in same + better) for what in ("lost_users", "reassigned"))
    text = f"""# A/B tests of simulated users

{num:,} tests without an effect and {num:,} with one of 2 % ({EFFECT:g} of a mean rating of {MEAN:g}, standard deviation
{SPREAD:g}), each of {BATCH * NUM_BATCHES:,} users, half of them with each version, looked at after every {BATCH} users.
The promised level of false alarms is {LEVEL:.0%}; a t-test of one look needs {NUM_FIXED:,} users of each version for a
power of {POWER:.0%}. {platform.machine()}. Made by `python -m benchmarks.ab_simulation --runs {num}`.

| test | decided without an effect | decided with one |
|---|---:|---:|
{chr(10).join(lines)}

- With the effect the sequential test decided after {median(times):,.0f} users of both versions (median; a quarter
  within {quarter:,.0f}, three quarters within {three_quarters:,.0f}): on average {ratio:.2f} times what the t-test of
  one look takes. Of {len(decided):,} decisions {num_wrong:,} had the wrong sign.
- The check of shares (level {RATIO_LEVEL:g}) raised {num_alarms:,} false alarms in {2 * num:,} tests.
- A state that was written and read again, as another replica or a restart does, dealt {num_moved:,} of {400 * num:,}
  users otherwise.
"""
    print(text)
    Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
