import json

import numpy as np
import pyarrow as pa
import pytest

from jobs.features.profile import NUM_TOP_VALUES, profile
from jobs.features.split import TrainRows


def rows(**columns: object) -> TrainRows:
    table = pa.table(columns)
    return TrainRows(table.append_column("split", pa.array(["train"] * table.num_rows)))


def test_numbers_are_described_as_numpy_describes_them() -> None:
    ratings = np.random.default_rng(0).normal(3, 1, 1001)
    found = profile(rows(rating=ratings))["rating"]
    assert found["mean"] == pytest.approx(np.mean(ratings))
    assert found["sd"] == pytest.approx(np.std(ratings))
    assert (found["min"], found["max"]) == (ratings.min(), ratings.max())
    assert found["decile_edges"] == pytest.approx(np.quantile(ratings, np.linspace(0, 1, 11)))


def test_nulls_are_counted_and_left_out_of_the_rest() -> None:
    found = profile(rows(rating=pa.array([1.0, None, 3.0]), word=pa.array(["a", None, "a"])))
    assert (found["rating"]["count"], found["rating"]["num_null"], found["rating"]["mean"]) == (3, 1, 2.0)
    assert (found["word"]["num_null"], found["word"]["top_shares"]) == (1, {"a": 1.0})


def test_text_is_described_by_its_most_frequent_values() -> None:
    words = [f"w{index:03}" for index in range(100) for _ in range(100 - index)]
    found = profile(rows(word=words))["word"]
    assert found["num_distinct"] == 100
    assert list(found["top_shares"]) == [f"w{index:03}" for index in range(NUM_TOP_VALUES)]
    assert found["top_shares"]["w000"] == 100 / len(words)


def test_equally_frequent_values_come_in_the_order_of_the_alphabet() -> None:
    assert list(profile(rows(word=["c", "a", "b"]))["word"]["top_shares"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([], pa.float64()),
        pa.array([None, None], pa.string()),
        pa.array([["a"], None]),
        pa.array([True, False]),
        pa.array([0, 1], pa.timestamp("s")),
    ],
    ids=str,
)
def test_a_column_that_has_no_statistics_is_counted(column: pa.Array) -> None:
    assert profile(rows(column=column))["column"] == {"count": len(column), "num_null": column.null_count}


@pytest.mark.parametrize("form", [pa.large_string(), pa.string()])
def test_the_kind_of_string_does_not_matter(form: pa.DataType) -> None:
    assert profile(rows(word=pa.array(["a"], form)))["word"]["top_shares"] == {"a": 1.0}


def test_it_is_plain_json_and_speaks_of_the_columns_only() -> None:
    found = profile(rows(rating=[1.0, 2.0], word=["a", "b"], user=pa.array([1, 2], pa.int32())))
    assert set(found) == {"rating", "word", "user"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
