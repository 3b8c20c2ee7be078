import numpy as np
import pyarrow as pa
import pytest
from sklearn.preprocessing import StandardScaler

from jobs.features.scaling import Scaling
from jobs.features.split import TrainRows


def train(values: pa.Array) -> TrainRows:
    return TrainRows(pa.table({"x": values, "split": ["train"] * len(values)}))


def fitted(step: Scaling, *parts: pa.Array) -> Scaling:
    return step.fitted(step.merge([step.statistics(train(part)) for part in parts]))


def numbers(seed: int = 0, num_rows: int = 400) -> np.ndarray:
    """Far from 0 beside their spread, some missing."""
    draw = np.random.default_rng(seed)
    values = draw.normal(2020, 3, num_rows)
    values[draw.random(num_rows) < 0.1] = np.nan
    return values


def column(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)


def applied(step: Scaling, values: pa.Array) -> list[object]:
    return step.apply(pa.table({"x": values})).column("y").to_pylist()


def test_numbers_are_scaled_as_scikit_learn_does_and_missing_ones_stay_missing() -> None:
    values = numbers()
    expected = StandardScaler().fit_transform(values[:, None])[:, 0]
    step = fitted(Scaling(column="x", output="y"), column(values))
    scaled = np.array(applied(step, column(values)), float)
    np.testing.assert_allclose(scaled, expected, atol=1e-4)
    assert 0 < np.isnan(scaled).sum() < len(scaled)
    assert step.apply(pa.table({"x": column(values)})).column("y").type == pa.float32()


@pytest.mark.parametrize("cuts", [(), (1,), (0, 7, 7, 399), tuple(range(0, 400, 13))])
@pytest.mark.parametrize("reverse", [False, True])
def test_any_parts_in_any_order_give_the_same_scaling(cuts: tuple[int, ...], reverse: bool) -> None:
    values = numbers()
    parts = [column(part) for part in np.split(values, cuts)]
    assert fitted(Scaling(column="x", output="y"), *(parts[::-1] if reverse else parts)) == fitted(
        Scaling(column="x", output="y"), column(values)
    )


def test_each_stretch_of_a_list_is_scaled_on_its_own() -> None:
    draw = np.random.default_rng(0)
    images = np.concatenate([draw.normal(10, 2, (50, 4)), draw.normal(-3, 0.5, (50, 4))], axis=1).astype(np.float32)
    given = pa.array([*images.tolist(), None], pa.list_(pa.float32()))
    step = fitted(Scaling(column="x", output="y", groups=2, of_lists=True), given.slice(0, 20), given.slice(20))
    *scaled, last = applied(step, given)
    by_channel = images.astype(np.float64).reshape(50, 2, 4).transpose(0, 2, 1).reshape(-1, 2)
    expected = StandardScaler().fit_transform(by_channel).reshape(50, 4, 2).transpose(0, 2, 1).reshape(50, 8)
    np.testing.assert_allclose(scaled, expected, atol=1e-5)
    assert last is None


@pytest.mark.parametrize("given", [[2.0, None, -1.0, 2020.5], [[1.0, 2.0], [3.0, 4.5], None]])
def test_one_row_is_scaled_exactly_as_a_table_is(given: list[object]) -> None:
    values = pa.array(given)
    values = values.cast(pa.list_(pa.float32())) if pa.types.is_list(values.type) else values
    step = fitted(Scaling(column="x", output="y"), values)
    rows = values.to_pylist()
    assert [step.apply_row({"x": row})["y"] for row in rows] == applied(step, values)


def test_numbers_that_are_all_the_same_become_0() -> None:
    assert applied(fitted(Scaling(column="x", output="y"), pa.array([7.0, 7.0])), pa.array([7.0, None])) == [0.0, None]


@pytest.mark.parametrize("values", [pa.nulls(3, pa.float64()), pa.array([], pa.float64())])
def test_a_column_without_any_number_is_left_as_it_is(values: pa.Array) -> None:
    step = fitted(Scaling(column="x", output="y"), values)
    assert applied(step, pa.array([2.5, None])) == [2.5, None]


def test_a_table_without_rows_stays_one() -> None:
    step = fitted(Scaling(column="x", output="y"), pa.array([1.0, 2.0]))
    assert applied(step, pa.array([], pa.float64())) == []
    assert applied(step, pa.array([], pa.list_(pa.float32()))) == []


def test_numbers_may_be_taken_as_they_are() -> None:
    step = Scaling(column="x", output="y", method="none")
    assert not step.learns
    assert applied(step, pa.array([1.5, None, 1e-3])) == [1.5, None, float(np.float32(1e-3))]
    assert step.apply_row({"x": 1e-3}) == {"y": float(np.float32(1e-3))}
    assert step.told() == ""
