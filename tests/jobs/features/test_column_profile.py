import json

import numpy as np
import pyarrow as pa
import pytest

from jobs.features.column_profile import ColumnProfile, Histogram, describe
from jobs.features.survey import survey


def described(column: pa.Array, **kinds: object) -> ColumnProfile:
    return describe(survey(pa.table({"c": column}), np.arange(len(column), dtype=np.uint64)), kinds)["c"]  # type: ignore[arg-type]


def test_it_says_what_numpy_and_plain_counting_say() -> None:
    random = np.random.default_rng(0)
    table = pa.table(
        {
            "rating": pa.array(random.normal(3, 1, 1001), mask=random.random(1001) < 0.1),
            "word": pa.array(random.choice(["a", "b", "c"], 1001), mask=random.random(1001) < 0.1),
        }
    )
    found = describe(survey(table, ("rating", "word")))
    rating, word = found["rating"].as_json(), found["word"].as_json()
    known = table.column("rating").drop_null().to_numpy()
    assert (rating["kind"], rating["count"], rating["num_null"]) == ("number", 1001, 1001 - len(known))
    assert [rating[key] for key in ("mean", "sd", "min", "max")] == pytest.approx(
        [known.mean(), known.std(), known.min(), known.max()]
    )
    assert rating["decile_edges"] == pytest.approx(np.quantile(known, np.arange(11) / 10))
    words = [value for value in table.column("word").to_pylist() if value is not None]
    assert (word["kind"], word["count"], word["num_null"]) == ("category", 1001, 1001 - len(words))
    assert word["num_distinct"] == 3
    assert word["top_shares"] == {value: words.count(value) / len(words) for value in "abc"}
    assert json.loads(json.dumps(found["word"].as_json(), allow_nan=False)) == found["word"].as_json()


def test_a_histogram_counts_every_value_of_the_sample_once() -> None:
    values = np.random.default_rng(0).lognormal(size=5000)
    shape = described(pa.array(values)).histogram
    assert shape is not None
    low, high = np.quantile(values, [0.01, 0.99])
    assert (shape.edges[0], shape.edges[-1]) == pytest.approx((low, high))
    assert (shape.below, shape.above) == (np.sum(values < low), np.sum(values > high))
    assert shape.counts == tuple(np.histogram(values, shape.edges)[0])
    assert shape.below + sum(shape.counts) + shape.above == len(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 1.0, 3.0], Histogram((0.5, 1.5, 2.5, 3.5), (1, 0, 2))),
        ([7.0], Histogram((6.5, 7.5), (1,))),
    ],
)
def test_few_whole_numbers_have_a_bin_each(values: list[float], expected: Histogram) -> None:
    assert described(pa.array(values)).histogram == expected


@pytest.mark.parametrize("values", [[0.25] * 5, [1e18] * 3, [0.0] * 999 + [0.5], [-1e300, 1e300]], ids=str)
def test_odd_distributions_lose_no_value(values: list[float]) -> None:
    shape = described(pa.array(values)).histogram
    assert shape is not None
    assert shape.below + sum(shape.counts) + shape.above == len(values)


def test_what_is_known_to_be_a_moment_is_described_as_one() -> None:
    assert described(pa.array([0, 60]), c="time").kind == "time"
    assert described(pa.array([0, 60])).kind == "number"


def test_entries_of_lists_are_described_and_their_lengths_counted() -> None:
    found = described(pa.array([["a", "b"], ["a"], [], None]))
    assert (found.kind, found.num_null, found.low, found.high, found.num_sampled) == ("labels", 1, 0, 2, 3)
    assert found.top_shares == (("a", 2 / 3), ("b", 1 / 3))
    assert found.as_json()["lengths"]["mean"] == 1
    assert described(pa.array([[1.0, 3.0], [2.0]])).deciles[5] == 2.0


@pytest.mark.parametrize(
    "column", [pa.array([], pa.float64()), pa.array([None], pa.string()), pa.array([{"a": 1}])], ids=str
)
def test_what_has_no_distribution_is_counted(column: pa.Array) -> None:
    assert described(column).as_json() == {"count": len(column), "num_null": column.null_count}


def test_bytes_are_described_by_their_number() -> None:
    assert described(pa.array([b"ab", b"abcd", None])).as_json()["lengths"] == {"min": 2, "max": 4, "mean": 3, "sd": 1}
