from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.features.cuts import (
    split_at_times,
    split_by_strata,
    stratum_counts,
    stratum_cuts,
    tied_rows,
    time_counts,
    time_cuts,
    with_ties,
)
from jobs.features.split import SplitSpec, split_by_time

TIES = ("user", "item")
SHARES = st.sampled_from([(0.1, 0.1), (0.3, 0.3), (0.05, 0.94), (0.25, 0.5)])


def blocks(table: pa.Table, cuts: list[int]) -> list[pa.Table]:
    edges = [0, *sorted(min(cut, table.num_rows) for cut in cuts), table.num_rows]
    return [table.slice(start, end - start) for start, end in pairwise(edges)]


@given(
    st.lists(st.tuples(st.sampled_from(["a", "ä", None]), st.integers(0, 9)), max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    SHARES,
)
def test_a_split_by_time_in_blocks_is_that_of_all_rows(
    rows: list[tuple[str | None, int]], edges: list[int], shares: tuple[float, float]
) -> None:
    spec = SplitSpec(valid=shares[0], test=shares[1])
    table = pa.table(
        {
            "user": pa.array([user for user, _ in rows], pa.string()),
            "item": pa.array([f"i{number}" for number in range(len(rows))], pa.string()),
            "time": pa.array([moment for _, moment in rows], pa.int64()),
        }
    )
    parts = blocks(table, edges)
    cuts = time_cuts([time_counts(part, "time") for part in parts], spec)
    cuts = with_ties(cuts, [tied_rows(part, cuts, "time", TIES) for part in parts], "time", TIES)
    found = pa.concat_tables([split_at_times(part, cuts, "time") for part in parts])
    assert found.sort_by("item") == split_by_time(table, spec, "time", TIES).sort_by("item")


def strata(table: pa.Table, spec: SplitSpec, edges: list[int]) -> pa.Table:
    parts = blocks(table, edges)
    cuts = stratum_cuts([stratum_counts(part, "label", ["id"]) for part in reversed(parts)], spec)
    return pa.concat_tables([split_by_strata(part, cuts, "label", ["id"]) for part in parts])


def labelled(num_rows: int) -> pa.Table:
    labels = np.random.default_rng(0).choice(["common", "rare", "rarest"], num_rows, p=[0.9, 0.09, 0.01])
    return pa.table({"id": [f"r{number}" for number in range(num_rows)], "label": labels})


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=60), st.lists(st.integers(0, 60), max_size=4), SHARES)
def test_each_class_has_its_shares_to_a_row_however_blocks_are_cut(
    labels: list[str | None], edges: list[int], shares: tuple[float, float]
) -> None:
    spec = SplitSpec(by="stratified", column="label", valid=shares[0], test=shares[1])
    ids = pa.array([f"r{number}" for number in range(len(labels))], pa.string())
    table = pa.table({"id": ids, "label": pa.array(labels, pa.string())})
    found = strata(table, spec, edges)
    assert found == strata(table, spec, [])
    for label in set(labels):
        names = [row["split"] for row in found.to_pylist() if row["label"] == label]
        assert "train" in names
        assert abs(names.count("test") - spec.test * len(names)) <= 1
        assert abs(names.count("valid") - spec.valid * len(names)) <= 1


@pytest.mark.parametrize("num_rows", [1000, 20_000])
def test_stratified_few_rows_move_when_1_percent_is_added(num_rows: int) -> None:
    spec = SplitSpec(by="stratified", column="label")
    more = labelled(num_rows * 101 // 100)
    before = strata(more.slice(0, num_rows), spec, []).column("split").to_pylist()
    after = strata(more, spec, []).slice(0, num_rows).column("split").to_pylist()
    assert sum(one != other for one, other in zip(before, after, strict=True)) <= 0.003 * num_rows
