"""What live rows are told of, beside the two samples themselves and scipy."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from jobs.features.column_profile import describe
from jobs.features.columns import Column
from jobs.features.survey import merge, survey
from serving.drift import WINDOW, LiveDrift, drift_of, parts_of

COLUMNS = (
    Column("income", "number", nullable=True),
    Column("debt", "number"),
    Column("home", "text", nullable=True),
    Column("note", "text"),
    Column("when", "time"),
)


def drawn(seed: int, num: int, **changed: Any) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    incomes = draw.normal(changed.get("income", 50), 10, num)
    homes = draw.choice(["own", "rent", "other"], num, p=changed.get("home", [0.6, 0.3, 0.1]))
    is_missing = draw.random(num) < changed.get("missing", 0.1)
    debts = np.where(draw.random(num) < 0.8, 0.0, draw.exponential(100, num))
    return [
        {
            "income": None if gone else float(income),
            "debt": float(debt),
            "home": str(home),
            "note": f"note {seed} {number}",
            "when": number,
        }
        for number, (gone, income, home, debt) in enumerate(zip(is_missing, incomes, homes, debts, strict=True))
    ]


def profile() -> dict[str, Any]:
    table = pa.Table.from_pylist(drawn(0, 5000))
    return {name: found.as_json() for name, found in describe(merge([survey(table, ["note"])])).items()}


PROFILE = profile()


def told(rows: list[dict[str, Any]]) -> dict[str, Any]:
    live = LiveDrift(PROFILE, COLUMNS)
    live.add(rows)
    return {one.column: one for one in live.told()}


def test_rows_as_in_training_have_an_index_near_0() -> None:
    found = told(drawn(1, 2000))
    assert set(found) == {"income", "debt", "home"}  # free text and times have no parts
    assert all(one.index < 0.02 and not one.is_clear for one in found.values())
    assert found["home"].p_value > 0.001
    for one in found.values():
        assert sum(one.training) == pytest.approx(1)
        assert sum(one.live) == pytest.approx(1)
        assert one.live == pytest.approx(one.training, abs=0.05)


@pytest.mark.parametrize(
    ("changed", "column"),
    [({"income": 70}, "income"), ({"missing": 0.6}, "income"), ({"home": [0.1, 0.3, 0.6]}, "home")],
)
def test_a_column_that_changed_is_clear_and_first(changed: dict[str, Any], column: str) -> None:
    live = LiveDrift(PROFILE, COLUMNS)
    live.add(drawn(1, 2000, **changed))
    [first, *others] = live.told()
    assert (first.column, first.is_clear) == (column, True)
    assert not any(one.is_clear for one in others)


def test_a_value_that_training_did_not_show_is_among_the_others() -> None:
    rows = [{**row, "home": "boat"} for row in drawn(1, 500)]
    found = told(rows)["home"]
    assert dict(zip(found.parts, found.live, strict=True)) == {"own": 0, "rent": 0, "other": 0, "others": 1.0}
    assert found.p_value < 1e-9


def test_few_rows_say_nothing() -> None:
    assert "income" not in told(drawn(1, 100))
    assert told([]) == {}


def test_only_the_last_rows_count() -> None:
    live = LiveDrift(PROFILE, COLUMNS)
    live.add(drawn(1, WINDOW, income=90))
    assert {one.column for one in live.told() if one.is_clear} == {"income"}
    live.add(drawn(2, 2 * WINDOW + 1))
    assert not any(one.is_clear for one in live.told())


def test_the_p_value_is_that_of_scipy_and_the_index_that_of_its_definition() -> None:
    parts = parts_of(PROFILE["home"])
    assert parts
    counts = np.array([500, 400, 100, 0, 0])
    found = drift_of("home", parts, counts)
    assert found
    used = parts.shares > 0
    expected = parts.shares[used] / parts.shares[used].sum()
    assert found.p_value == pytest.approx(stats.chisquare(counts[used], 1000 * expected).pvalue, rel=1e-3, abs=1e-12)
    live = counts[used] / 1000
    assert found.index == pytest.approx(np.sum((live - expected) * np.log(live / expected)), rel=0.02)


def test_parts_of_a_number_have_about_a_tenth_each_or_are_a_value_that_is_frequent() -> None:
    income, debt = (parts_of(PROFILE[name]) for name in ("income", "debt"))
    assert income
    assert debt
    assert 5 <= len(income.cuts) <= 10
    assert all(0.05 < share < 0.25 for share in income.shares[:-2])
    assert debt.shares.max() > 0.75
    places = [debt.place(row["debt"]) for row in drawn(0, 5000)]
    live = np.bincount(places, minlength=len(debt.labels)) / 5000
    assert live == pytest.approx(debt.shares, abs=0.02)
