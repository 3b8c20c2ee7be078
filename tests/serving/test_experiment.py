"""What users said of versions, and what is made of it."""

from datetime import datetime

import numpy as np
import pytest

from serving.experiment import evaluate, loss_of
from serving.outcomes import Outcome
from serving.shares import ExperimentSpec, Shares

STATE = Shares(deployed="old", shares={"old": 0.5, "new": 0.5}, made_at="2026-05-04T12:00:00+00:00")
ASKED = ExperimentSpec(expected_effect=0.3, min_users=50)


def outcome(user: str, version: str, value: float, at: str = "2026-05-04T12:00:00.5+00:00") -> Outcome:
    return Outcome(version, user, value, datetime.fromisoformat(at))


def said(num_users: int, effect: float, seed: int = 0) -> list[Outcome]:
    draw = np.random.default_rng(seed)
    events = []
    for number in range(num_users):
        user = f"user {number}"
        version = STATE.version_of(user)
        for _ in range(int(draw.integers(1, 4))):
            events.append(outcome(user, version, float(draw.normal(3.5 + effect * (version == "new"), 1))))
    return events


def test_a_version_that_users_like_better_is_told_with_its_interval() -> None:
    found = evaluate(said(2000, 0.5), STATE, ASKED)
    assert found
    comparison = found.comparisons["new"]
    assert comparison.low > 0
    assert comparison.low < 0.5 < comparison.high
    assert found.fits_shares
    [main, other] = found.lines(ASKED.level)
    assert main.startswith("  old: mean outcome 3.")
    assert other.endswith("): better")
    assert "at 95%" in other


def test_without_an_effect_nothing_is_decided() -> None:
    found = evaluate(said(2000, 0.0), STATE, ASKED)
    assert found
    assert not found.comparisons["new"].is_decided
    assert found.lines(ASKED.level)[1].endswith("not decided yet")


def test_a_user_is_one_value_however_much_it_says() -> None:
    events = [outcome("ann", "old", 1.0)] * 9 + [outcome("ann", "old", 5.0), outcome("bob", "old", 5.0)]
    found = evaluate([*events, outcome("eve", "new", 4.0)], STATE, ASKED)
    assert found
    assert (found.samples["old"].num_units, found.samples["old"].mean) == (2, pytest.approx((1.4 + 5.0) / 2))


def test_what_does_not_count_is_left_out() -> None:
    before = outcome("joe", "old", 1.0, at="2026-05-04T11:59:59.999+00:00")
    ann = outcome("ann", "old", 2.0)
    met_both = [outcome("bob", "old", 1.0), outcome("bob", "new", 5.0)]
    found = evaluate([before, ann, *met_both, outcome("kim", "older", 1.0), outcome("eve", "new", 4.0)], STATE, ASKED)
    assert found
    assert {version: sample.num_units for version, sample in found.samples.items()} == {"old": 1, "new": 1}
    assert found.num_left_out == 1
    assert found.lines(ASKED.level)[-1] == "  1 users met several versions and are left out; send X-Unit with all"


def test_users_that_are_lost_on_one_side_raise_an_alarm() -> None:
    events = said(3000, 0.0)
    kept = [one for number, one in enumerate(events) if one.version == "old" or number % 3]
    found = evaluate(kept, STATE, ASKED)
    assert found
    lost = [one for one in events if one.version == "old" or int(one.unit.split()[1]) % 3]
    found = evaluate(lost, STATE, ASKED)
    assert found
    assert not found.fits_shares
    assert "mind: the numbers of users do not fit the shares" in found.lines(ASKED.level)[-1]


def test_one_version_alone_or_no_word_is_nothing_to_compare() -> None:
    assert evaluate([], STATE, ASKED) is None
    alone = replace_shares({"old": 1.0, "new": 0.0})
    assert evaluate(said(50, 0.0), alone, ASKED) is None


def replace_shares(shares: dict[str, float]) -> Shares:
    return STATE.model_copy(update={"shares": shares})


def test_a_state_that_was_only_deployed_counts_from_the_beginning() -> None:
    events = [outcome("ann", "old", 2.0, at="2001-01-01T00:00:00+00:00"), outcome("eve", "new", 4.0)]
    found = evaluate(events, STATE.model_copy(update={"made_at": ""}), ASKED)
    assert found
    assert found.samples["old"].num_units == 1


def test_a_version_that_clearly_loses_too_much_is_to_be_rolled_back_and_no_other() -> None:
    worse, alike = evaluate(said(3000, -0.5), STATE, ASKED), evaluate(said(3000, 0.0), STATE, ASKED)
    assert loss_of(worse, "new", 0.1).startswith("what came of its answers is worse by 0.")
    assert loss_of(worse, "new", 0.1).endswith("and may be by 0.1")
    assert loss_of(worse, "new", 0.9) == ""
    assert loss_of(alike, "new", 0.0) == loss_of(worse, "old", 0.0) == loss_of(None, "new", 0.0) == ""
    assert loss_of(evaluate(said(60, -0.5), STATE, ASKED), "new", 0.0) == "", "too few users say nothing"
