import numpy as np
import pyarrow as pa
import pytest

from jobs.report.drift import CLEAR, drift

RANDOM = np.random.default_rng(0)


def chunked(values: object, mask: np.ndarray | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, mask=mask)])


def test_the_index_is_that_of_its_definition() -> None:
    train, other = RANDOM.normal(0, 1, 50_000), RANDOM.normal(0.8, 1, 50_000)
    edges = [-np.inf, *np.quantile(train, np.linspace(0.1, 0.9, 9)), np.inf]
    first, second = (np.histogram(values, edges)[0] / len(values) for values in (train, other))
    found = drift("x", "test", chunked(train), chunked(other))
    assert found is not None
    assert found.index == pytest.approx(
        sum((q - p) * np.log(q / p) for p, q in zip(first, second, strict=True)), rel=0.01
    )
    assert found.index > CLEAR
    assert found.other == pytest.approx(tuple(second), abs=1e-3)


def test_one_distribution_has_next_to_none() -> None:
    found = drift("x", "test", chunked(RANDOM.normal(size=5000)), chunked(RANDOM.normal(size=5000)))
    assert found is not None
    assert found.index < 0.02


def test_text_is_compared_by_the_values_that_are_frequent_in_training_and_by_what_is_missing() -> None:
    train, other = chunked(["a"] * 900 + ["b"] * 100), chunked(["a"] * 400 + ["new"] * 300 + [None] * 300)
    found = drift("word", "valid", train, other)
    assert found is not None
    assert dict(zip(found.labels, found.other, strict=True)) == {"a": 0.4, "b": 0, "others": 0.3, "missing": 0.3}
    assert found.index > CLEAR


@pytest.mark.parametrize(
    ("train", "other"),
    [
        (chunked([1.0] * 5), chunked([2.0] * 5)),
        (chunked([1.0] * 5000), chunked([1.0] * 5000)),
        (chunked([[1.0]] * 5000), chunked([[2.0]] * 5000)),
        (chunked([None] * 5000), chunked([None] * 5000)),
    ],
    ids=["few", "constant", "lists", "missing"],
)
def test_nothing_is_said_where_nothing_can_be(train: pa.ChunkedArray, other: pa.ChunkedArray) -> None:
    assert drift("x", "test", train, other) is None
