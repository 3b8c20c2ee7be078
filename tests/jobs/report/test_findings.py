import numpy as np
import pyarrow as pa
import pytest

from jobs.features.column_profile import describe
from jobs.features.survey import survey
from jobs.report.drift import Drift
from jobs.report.findings import Finding, of_columns, of_drifts, of_leaks

NUM_ROWS = 400


def found(values: object) -> list[str]:
    table = pa.table({"c": values})
    profiles = describe(survey(table, np.arange(table.num_rows, dtype=np.uint64)))
    return [finding.what for finding in of_columns([*profiles.values()], ())]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["a"] * NUM_ROWS, ["has one value only"]),
        ([3.0] * NUM_ROWS, ["has one value only"]),
        (pa.array([None] * 5, pa.string()), ["has no value in any row"]),
        ([None] * 300 + ["a", "b"] * 50, ["is missing in 75% of the rows"]),
        (["a"] * 390 + ["b"] * 10, ["is 'a' in 98% of the rows that have it"]),
        (np.arange(NUM_ROWS), ["holds whole numbers that all differ, like a key: a model would learn rows by heart"]),
        (np.random.default_rng(0).normal(size=NUM_ROWS), []),
        (np.arange(NUM_ROWS) % 50, []),
        (["a", "b"] * 200, []),
        (np.arange(20), []),
    ],
    ids=str,
)
def test_odd_columns_are_found_and_others_are_not(values: object, said: list[str]) -> None:
    assert found(values) == said


def test_keys_may_look_like_keys() -> None:
    table = pa.table({"c": np.arange(NUM_ROWS)})
    assert of_columns([*describe(survey(table, ("c",))).values()], ("c",)) == []


def test_a_leak_names_the_label_and_a_drift_its_index() -> None:
    label = np.where(np.arange(NUM_ROWS) % 3, "no", "yes")
    train = pa.table({"late": label, "delay": np.where(label == "yes", 20.0, 3.0), "day": np.arange(NUM_ROWS) % 7})
    assert [finding.column for finding in of_leaks(train, ["delay", "day", "late"], "late")] == ["delay"]
    assert "is it known when 'late' is asked for?" in of_leaks(train, ["delay"], "late")[0].what
    assert of_leaks(train, ["delay"], None) == []
    drifts = [Drift("month", "test", 0.5, ("a",), (1.0,), (1.0,))]
    assert of_drifts(drifts) == [
        Finding("month", "is not distributed in test as in train: population stability index 0.50, above 0.25")
    ]
