"""What users said of versions, and what is made of it."""

from dataclasses import replace

import numpy as np
import pytest

from serving.experiment import ExperimentSpec, evaluate
from serving.feedback import Event
from serving.shares import Shares

STATE = Shares(deployed="old", shares={"old": 0.5, "new": 0.5}, made_at="2026-05-04T12:00:00+00:00")
ASKED = ExperimentSpec(expected_effect=0.3, min_users=50)


def event(user: str, version: str, rating: float, number: int = 0, at: str = "2026-05-04T12:00:00.5+00:00") -> Event:
    return Event(f"{user}-{version}-{number}", user, "m1", rating, 0, at, version)


def said(num_users: int, effect: float, seed: int = 0) -> list[Event]:
    draw = np.random.default_rng(seed)
    events = []
    for number in range(num_users):
        user = f"user {number}"
        version = STATE.version_of(user)
        for which in range(int(draw.integers(1, 4))):
            rating = float(draw.normal(3.5 + effect * (version == "new"), 1))
            events.append(event(user, version, rating, which))
    return events


def test_a_version_that_users_like_better_is_told_with_its_interval() -> None:
    found = evaluate(said(2000, 0.5), STATE, ASKED)
    assert found
    comparison = found.comparisons["new"]
    assert comparison.low > 0
    assert comparison.low < 0.5 < comparison.high
    assert found.fits_shares
    [main, other] = found.lines(ASKED.level)
    assert main.startswith("  old: mean rating 3.")
    assert other.endswith("): better")
    assert "at 95%" in other


def test_without_an_effect_nothing_is_decided() -> None:
    found = evaluate(said(2000, 0.0), STATE, ASKED)
    assert found
    assert not found.comparisons["new"].is_decided
    assert found.lines(ASKED.level)[1].endswith("not decided yet")


def test_a_user_is_one_value_however_much_it_says() -> None:
    events = [event("ann", "old", 1.0, n) for n in range(9)] + [event("ann", "old", 5.0, 9), event("bob", "old", 5.0)]
    found = evaluate([*events, event("eve", "new", 4.0)], STATE, ASKED)
    assert found
    assert (found.samples["old"].num_units, found.samples["old"].mean) == (2, pytest.approx((1.4 + 5.0) / 2))


def test_what_does_not_count_is_left_out() -> None:
    before = event("joe", "old", 1.0, at="2026-05-04T11:59:59.999+00:00")
    twice = [event("ann", "old", 2.0), event("ann", "old", 2.0)]
    met_both = [event("bob", "old", 1.0), event("bob", "new", 5.0)]
    found = evaluate([before, *twice, *met_both, event("kim", "older", 1.0), event("eve", "new", 4.0)], STATE, ASKED)
    assert found
    assert {version: sample.num_units for version, sample in found.samples.items()} == {"old": 1, "new": 1}
    assert found.num_left_out == 1
    assert found.lines(ASKED.level)[-1] == "  1 users met several versions and are left out; send X-Unit with all"


def test_users_that_are_lost_on_one_side_raise_an_alarm() -> None:
    events = said(3000, 0.0)
    kept = [one for number, one in enumerate(events) if one.version == "old" or number % 3]
    found = evaluate(kept, STATE, ASKED)
    assert found
    lost = [one for one in events if one.version == "old" or int(one.user_id.split()[1]) % 3]
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
    events = [replace(event("ann", "old", 2.0), received_at="2001-01-01T00:00:00+00:00"), event("eve", "new", 4.0)]
    found = evaluate(events, STATE.model_copy(update={"made_at": ""}), ASKED)
    assert found
    assert found.samples["old"].num_units == 1
