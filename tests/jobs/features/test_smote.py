from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import DataError
from jobs.features import smote
from jobs.features.smote import Smote
from jobs.features.split import SPLIT
from jobs.features.transform import Transform
from tests.jobs.features.fitting import fitted, table


def rows(seed: int = 0, many: int = 90, few: int = 13) -> pa.Table:
    draw = np.random.default_rng(seed)
    labels = ["many"] * many + ["few"] * few
    numbers = {"x": draw.normal(size=many + few), "y": draw.normal(5, 100, size=many + few)}
    found = table(**numbers, label=labels, key=[f"k{place}" for place in range(many + few)])
    return found.take(draw.permutation(many + few))


def step(**given: object) -> Smote:
    return Smote.model_validate({"columns": ("x", "y"), "label": "label", "key": "key", **given})


def points(of: pa.Table) -> np.ndarray:
    return np.stack([of.column("x").to_numpy(), of.column("y").to_numpy()], axis=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 20), st.floats(0.1, 1.5), st.integers(1, 7))
def test_counts_reach_the_ratio_and_each_row_lies_between_near_rows_of_the_minority(
    seed: int, few: int, ratio: float, num_neighbors: int
) -> None:
    given_rows = rows(seed, few=few)
    one = fitted(step(ratio=ratio, num_neighbors=num_neighbors), given_rows, [10, 50])
    added = one.added(given_rows)
    assert few + added.num_rows == max(few, int(np.floor(90 * ratio + 0.5)))
    minority = given_rows.filter(pc.equal(given_rows.column("label"), "few"))
    known, keys = points(minority), minority.column("key").to_pylist()
    spread = known.std(axis=0)
    for key, point in zip(added.column("key").to_pylist(), points(added), strict=True):
        base = known[keys.index(key.partition("~")[0])]
        order = np.argsort((((known - base) / spread) ** 2).sum(axis=1))[1 : num_neighbors + 1]
        offsets = [_distance_to_segment(point / spread, base / spread, known[near] / spread) for near in order]
        assert min(offsets) < 1e-6


def _distance_to_segment(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    along = np.clip(np.dot(point - start, end - start) / np.dot(end - start, end - start), 0, 1)
    return float(np.linalg.norm(point - start - along * (end - start)))


def test_places_between_two_rows_are_spread_evenly() -> None:
    given_rows = table(x=[0.0] * 2000 + [0.0, 1.0], label=["many"] * 2000 + ["few"] * 2, key=[*map(str, range(2002))])
    one = fitted(Smote(columns=("x",), label="label", key="key"), given_rows)
    places = np.sort(one.added(given_rows).column("x").to_numpy())
    assert len(places) == 1998
    assert np.abs(places - np.linspace(0, 1, len(places))).max() < 1.95 / len(places) ** 0.5  # Kolmogorov, 0.1 %


@given(st.lists(st.integers(0, 103), max_size=4))
@settings(max_examples=20, deadline=None)
def test_how_blocks_are_cut_changes_no_row(cuts: list[int]) -> None:
    given_rows = rows()
    one, other = fitted(step(), given_rows), fitted(step(), given_rows, cuts)
    assert one.state() == other.state()
    edges = [0, *sorted(cuts), 103]
    blocks = [given_rows.slice(start, end - start) for start, end in pairwise(edges)]
    found = pa.concat_tables([other.added(block) for block in blocks])
    assert found.sort_by("key") == one.added(given_rows).sort_by("key")


def test_rows_of_other_splits_and_rows_that_are_served_stay_as_they_are() -> None:
    given_rows = rows().append_column("other", pa.array(range(103)))
    valid = given_rows.set_column(4, SPLIT, pa.array(["valid"] * 103))
    transform = Transform((fitted(step(), given_rows),))
    assert transform.prepare(valid) == valid
    assert transform.apply(given_rows) == given_rows
    assert transform.apply_row({"x": 1.0}) == {"x": 1.0}
    prepared = transform.prepare(given_rows)
    assert prepared.slice(0, 103) == given_rows
    assert prepared.num_rows == 180
    assert len(set(prepared.column("key").to_pylist())) == 180
    base = dict(zip(given_rows.column("key").to_pylist(), range(103), strict=True))
    assert all(base[row["key"].partition("~")[0]] == row["other"] for row in prepared.to_pylist())


def test_a_larger_minority_than_the_sample_gets_its_rows_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smote, "MAX_SAMPLE", 50)
    given_rows = rows(many=3000, few=2000)
    one = fitted(step(minority="few"), given_rows, [700, 1900])
    assert len(one._sample) == 50
    assert abs(one.added(given_rows).num_rows - 1000) < 100


def test_one_complete_row_is_too_few() -> None:
    few = table(x=[1.0, 2.0, None], label=["a", "b", "b"], key=["1", "2", "3"])
    with pytest.raises(DataError, match="the label 'b' of 'label' has 1 training rows in which no number is missing"):
        fitted(Smote(columns=("x",), label="label", key="key", minority="b"), few)
