"""Who gets which version, and the log of it."""

from pathlib import Path

import pytest

from cluster.errors import ReleaseError
from cluster.storage import Storage
from serving.shares import Guardrails, ShareLog, Shares

UNITS = [f"user {number}" for number in range(4000)]


def shares(salt: str = "", **given: float) -> Shares:
    return Shares(deployed="a", shares=given, salt=salt)


def test_a_unit_has_one_version_and_versions_have_their_shares() -> None:
    state = shares(a=0.7, b=0.2, c=0.1)
    dealt = [state.version_of(unit) for unit in UNITS]
    assert dealt == [Shares.model_validate_json(state.model_dump_json()).version_of(unit) for unit in UNITS]
    for version, share in state.shares.items():
        assert dealt.count(version) / len(UNITS) == pytest.approx(share, abs=0.03)  # four standard errors
    assert (
        sum(a != b for a, b in zip(dealt, map(shares("other", a=0.7, b=0.2, c=0.1).version_of, UNITS), strict=True))
        > 500
    )


def test_growing_moves_nobody_back() -> None:
    before, after = shares(a=0.9, b=0.1), shares(a=0.6, b=0.4)
    had = [unit for unit in UNITS if before.version_of(unit) == "b"]
    assert had
    assert {after.version_of(unit) for unit in had} == {"b"}
    assert {shares(b=1.0).version_of(unit) for unit in UNITS} == {"b"}
    assert {shares(a=1.0, b=0.0).version_of(unit) for unit in UNITS} == {"a"}


def test_the_ends_of_the_range_are_somebodys() -> None:
    assert shares(a=0.9, b=0.1).version_at(0.0) == "b"
    assert shares(a=1 - 1e-17, b=1e-17).version_at(1 - 1e-16) == "a"


def test_who_is_taken_out_leaves_its_share_to_the_main_version() -> None:
    state = shares(a=0.7, b=0.2, c=0.1).without("b", "too slow")
    assert state.shares == {"a": pytest.approx(0.9), "c": 0.1}
    assert (state.number, state.why, state.main) == (1, "too slow", "a")
    assert state.made_at


def test_the_newest_state_holds_until_another_version_is_deployed(tmp_path: Path) -> None:
    log = ShareLog(Storage(str(tmp_path)), "loans")
    assert log.newest("a") == Shares(deployed="a", shares={"a": 1.0})
    first = log.newest("a").next({"a": 0.9, "b": 0.1}, "try b")
    log.add(first)
    second = first.next({"b": 1.0}, "promoted b").model_copy(update={"guardrails": Guardrails(max_p95_ms=5)})
    log.add(second)
    assert log.newest("a") == second
    assert [state.why for state in log.history()] == ["try b", "promoted b"]
    assert log.newest("c") == Shares(deployed="c", shares={"c": 1.0}, number=2)
    log.add(log.newest("c").next({"c": 1.0}, ""))


def test_of_all_states_the_newest_alone_is_read(tmp_path: Path) -> None:
    log = ShareLog(Storage(str(tmp_path)), "loans")
    for why in ("one", "two"):
        log.add(log.newest("a").next({"a": 1.0}, why))
    (tmp_path / "releases/loans/00000001.json").write_text("damaged")
    assert log.newest("a").why == "two"
    with pytest.raises(ValueError, match="Invalid JSON"):
        log.history()
    (tmp_path / "releases/loans/00000002.json").write_text("damaged")
    with pytest.raises(ValueError, match="Invalid JSON"):  # an older one does not hold instead
        log.newest("a")


def test_of_two_that_change_it_at_once_one_is_told(tmp_path: Path) -> None:
    log = ShareLog(Storage(str(tmp_path)), "loans")
    state = log.newest("a").next({"a": 1.0}, "one")
    log.add(state)
    with pytest.raises(ReleaseError, match=r"release 1 of 'loans' was made meanwhile by somebody else.*status"):
        log.add(state)


def test_a_state_may_hold_again_with_all_that_it_says() -> None:
    before = Shares(deployed="a", shares={"a": 1.0}, salt="one", number=3, shadows=("c",))
    tried = before.next({"a": 0.5, "b": 0.5}, "try b").model_copy(update={"salt": "two", "shadows": ()})
    after = before.again(tried, "refused")
    assert (after.number, after.why) == (5, "refused")
    assert (after.shares, after.salt, after.shadows) == (before.shares, "one", ("c",))
