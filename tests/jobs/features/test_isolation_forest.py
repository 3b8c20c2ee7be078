import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from sklearn.ensemble import IsolationForest as Forest

from cluster.errors import DataError
from jobs.features import isolation_forest
from jobs.features.isolation_forest import IsolationForest
from tests.jobs.features.fitting import fitted, made, table

STEP = IsolationForest(columns=("a", "b"), contamination=0.05, num_trees=20, then="mark", output="far")


def rows(num_rows: int = 400) -> pa.Table:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(num_rows, 2))
    values[::50] *= 10
    a = [None if n % 40 == 7 else float(value) for n, value in enumerate(values[:, 0])]
    return table(a=a, b=values[:, 1].tolist())


def test_outliers_are_those_of_scikit_learn_on_the_same_rows() -> None:
    given = rows()
    step = fitted(STEP, given, [100, 250])
    found = np.array(made(step, given)["far"])
    known = given.filter(given.column("a").is_valid())
    in_order = known.select(["a", "b"]).take(sampled_order(known))
    forest = Forest(n_estimators=20, contamination=0.05, random_state=0).fit(matrix(in_order))
    expected = forest.predict(matrix(known)) < 0
    assert found[given.column("a").is_valid().to_numpy()].tolist() == expected.astype(float).tolist()
    assert found[given.column("a").is_null().to_numpy()].sum() == 0
    assert 0.03 < expected.mean() < 0.07


def matrix(given: pa.Table) -> np.ndarray:
    return np.stack([given.column(name).to_numpy() for name in ("a", "b")], axis=1).astype(np.float32)


def sampled_order(given: pa.Table) -> pa.Array:
    hashes = isolation_forest.row_hashes([given.column("a"), given.column("b")])
    return pa.array(np.argsort(hashes))


@pytest.mark.parametrize("cuts", [(), (1,), (10, 10, 399)])
def test_any_parts_in_any_order_give_the_same_forest(cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation_forest, "SAMPLE_ROWS", 100)
    assert fitted(STEP, rows(), cuts) == fitted(STEP, rows())


def test_training_rows_that_are_outliers_can_be_left_out() -> None:
    step = fitted(IsolationForest(columns=("a", "b"), contamination=0.05, num_trees=20), rows())
    marks = made(fitted(STEP, rows()), rows())["far"]
    assert step.keeps(rows()).to_pylist() == [mark == 0 for mark in marks]
    assert made(step, rows()) == {}


def test_rows_that_all_have_gaps_are_refused() -> None:
    with pytest.raises(DataError, match="every training row lacks one of a, b, so no forest can be fitted; impute"):
        fitted(STEP, table(a=[1.0, None], b=[None, 2.0]))


def test_one_row_is_a_forest_too() -> None:
    assert made(fitted(STEP, table(a=[1.0], b=[2.0])), table(a=[1.0], b=[2.0]))["far"] == [0.0]


@pytest.mark.parametrize("fields", [{"then": "mark"}, {"then": "drop", "output": "y"}])
def test_an_output_goes_with_marks(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="an output goes with then=mark alone"):
        IsolationForest.model_validate({"columns": ("a",), **fields})
