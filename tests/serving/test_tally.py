"""What counts as a broken guardrail."""

import pytest

from serving.shares import WINDOW, Guardrails
from serving.tally import Tally

RAILS = Guardrails(max_error_rate=0.1, max_p95_ms=50, min_requests=20)


def tally(*requests: tuple[int, float]) -> Tally:
    found = Tally()
    for status, ms in requests:
        found.add(status, ms)
    return found


def test_too_few_requests_say_nothing() -> None:
    assert tally(*[(500, 1000.0)] * 19).breach(RAILS) == ""
    assert tally().breach(RAILS) == ""


def test_failures_of_the_service_count_and_those_of_clients_do_not() -> None:
    assert tally(*[(200, 1.0)] * 36, *[(503, 1.0)] * 4).breach(RAILS) == ""
    broken = tally(*[(200, 1.0)] * 35, *[(503, 1.0)] * 5).breach(RAILS)
    assert broken == "12.5% of its last 40 requests failed, at most 10.0% may"
    assert tally(*[(422, 1.0)] * 40).breach(RAILS) == ""


def test_a_slow_tail_counts_where_it_is_more_than_a_twentieth() -> None:
    assert tally(*[(200, 1.0)] * 97, *[(200, 900.0)] * 3).breach(RAILS) == ""
    assert "is 900 ms, and may be 50 ms" in tally(*[(200, 1.0)] * 90, *[(200, 900.0)] * 10).breach(RAILS)


def test_what_is_not_asked_is_not_broken() -> None:
    assert tally(*[(500, 1e6)] * 100).breach(Guardrails()) == ""


def test_only_the_last_requests_count() -> None:
    found = tally(*[(500, 1e6)] * 100, *[(200, 1.0)] * WINDOW)
    assert found.breach(RAILS) == ""
    seen = found.seen()
    assert (seen.num_requests, seen.error_rate, seen.p95_ms) == (100 + WINDOW, 0.0, pytest.approx(1.0))
