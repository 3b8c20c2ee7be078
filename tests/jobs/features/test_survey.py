import math
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.features import survey as module
from jobs.features.row_hash import row_hashes
from jobs.features.survey import EVERY_HASH, Survey, Totals, bound_for, merge, survey

COLUMNS = st.lists(
    st.tuples(st.integers(0, 40), st.one_of(st.none(), st.floats(-1e6, 1e6)), st.one_of(st.none(), st.text())),
    min_size=1,
    max_size=60,
)


def rows(values: list[tuple[Any, ...]]) -> pa.Table:
    key, x, word = zip(*values, strict=True)
    return pa.table({"key": pa.array(key), "x": pa.array(x, pa.float64()), "word": pa.array(word, pa.string())})


def sampled(found: Survey) -> list[tuple[Any, ...]]:
    columns = found.sample.to_pydict().values()
    return sorted(zip(found.hashes.tolist(), *columns, strict=True), key=repr)


@settings(max_examples=60, deadline=None)
@given(values=COLUMNS, cuts=st.lists(st.integers(0, 60), max_size=4), limit=st.integers(1, 40), bounded=st.booleans())
def test_no_cut_and_no_order_changes_the_survey(
    values: list[tuple[Any, ...]], cuts: list[int], limit: int, bounded: bool
) -> None:
    table = rows(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SAMPLE_ROWS", limit)
        bound = bound_for(table.num_rows) if bounded else EVERY_HASH
        whole = survey(table, ("key",), bound)
        edges = [0, *sorted(min(cut, table.num_rows) for cut in cuts), table.num_rows]
        parts = [survey(table.slice(start, end - start), ("key",), bound) for start, end in pairwise(edges)]
        merged = merge([merge(parts[1:]), parts[0]]) if len(parts) > 1 else merge(parts)
    assert sampled(merged) == sampled(whole)
    assert merged.bound == whole.bound
    for name, totals in whole.totals.items():
        other = merged.totals[name]
        assert (other.num_missing, other.num_known, other.low, other.high) == (
            *(totals.num_missing, totals.num_known),
            *(totals.low, totals.high),
        )
        assert other.mean == pytest.approx(totals.mean, abs=1e-6)
        assert other.squares == pytest.approx(totals.squares, rel=1e-9, abs=1e-3)


def test_the_sample_is_of_the_lowest_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 10)
    table = pa.table({"key": [f"k{number}" for number in range(100)]})
    hashes = row_hashes([table.column("key")])
    expected = {table.column("key")[int(place)].as_py() for place in np.argsort(hashes)[:10]}
    assert set(survey(table, ("key",)).sample.column("key").to_pylist()) == expected
    assert set(survey(table, hashes).sample.column("key").to_pylist()) == expected


def test_rows_of_one_key_are_all_sampled_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 3)
    table = pa.table({"key": ["a", "a", "b", "b"]})
    kept = survey(table, ("key",)).sample.column("key").to_pylist()
    assert kept in (["a", "a"], ["b", "b"])


def test_few_rows_are_all_sampled_and_a_bound_leaves_enough_of_many() -> None:
    assert bound_for(module.SAMPLE_ROWS) == EVERY_HASH
    table = pa.table({"key": np.arange(200_000)})
    found = merge(
        [survey(part, ("key",), bound_for(200_000)) for part in (table.slice(0, 150_000), table.slice(150_000))]
    )
    assert found.sample.num_rows == module.SAMPLE_ROWS


def test_totals_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).normal(1e9, 1, 10_000)
    half = pa.table({"x": pa.array(values[:3000])}), pa.table({"x": pa.array(values[3000:])})
    found = merge([survey(part, ("x",)) for part in half]).totals["x"]
    assert (found.low, found.high) == (values.min(), values.max())
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert math.sqrt(found.squares / found.num_known) == pytest.approx(values.std(), rel=1e-5)


@pytest.mark.parametrize(
    ("column", "expected", "kept"),
    [
        (pa.array(["a", None, "äbc"]), Totals("text", 1, 2, 1, 3, 2, 2), ["a", None, "äbc"]),
        (pa.array(["a", "b"]).dictionary_encode(), Totals("text", 0, 2, 1, 1, 1, 0), ["a", "b"]),
        (pa.array([True, None]), Totals("text", 1, 1, 4, 4, 4, 0), ["true", None]),
        (pa.array([b"ab", b"abcd"]), Totals("bytes", 0, 2, 2, 4, 3, 2), [2, 4]),
        (pa.array([["a"], None]), Totals("labels", 1, 1, 1, 1, 1, 0), [["a"], None]),
        (pa.array([[1.0] * 40]), Totals("numbers", 0, 1, 40, 40, 40, 0), [[1.0] * 32]),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), Totals("numbers", 0, 1, 2, 2, 2, 0), [[1.0, 2.0]]),
        (pa.array([2_000_000], pa.timestamp("us")), Totals("number", 0, 1, 2, 2, 2, 0), [2.0]),
        (pa.array([1.0, math.nan, math.inf]), Totals("number", 2, 1, 1, 1, 1, 0), [1.0, None, None]),
        (pa.array([None, None], pa.float64()), Totals("number", 2, 0), [None, None]),
        (pa.array([{"a": 1}]), Totals("other", 0, 1), [{"a": 1}]),
        (pa.array(["x" * 100]), Totals("text", 0, 1, 100, 100, 100, 0), ["x" * 64]),
    ],
    ids=str,
)
def test_each_form_has_totals_and_a_bounded_sample(column: pa.Array, expected: Totals, kept: list[Any]) -> None:
    found = survey(pa.table({"c": column}), np.arange(len(column), dtype=np.uint64))
    assert found.totals["c"] == expected
    assert found.sample.column("c").to_pylist() == kept


def test_no_rows_have_a_survey() -> None:
    empty = survey(rows([(1, 1.0, "a")]).slice(0, 0), ("key",))
    assert (empty.num_rows, merge([empty, survey(rows([(1, 2.0, "a")]), ("key",))]).totals["x"].mean) == (0, 2.0)
