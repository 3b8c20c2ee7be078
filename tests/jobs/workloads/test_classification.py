import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor, nn

from jobs.features.split import TrainRows
from jobs.features.transform import Transform
from jobs.features.vocabulary import Vocabulary
from jobs.workloads import classification
from jobs.workloads.chain import Batch

LABELS = ["a"] * 30 + ["b"] * 15 + ["c"] * 5


def labelled(names: list[str]) -> tuple[Transform, TrainRows]:
    rows = pa.table({"label": names, "split": ["train"] * len(names)})
    unfitted = Transform((Vocabulary(column="label", output=classification.CLASS),))
    transform = unfitted.fit([TrainRows(rows)])
    return transform, TrainRows(transform.apply(rows))


def random_probabilities(num_rows: int = 50, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet([1.0, 1.0, 1.0], num_rows))


class Doubled(nn.Module):
    """Logits that are told apart by row, and how many rows it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.num_rows: list[int] = []

    def forward(self, batch: Batch) -> Tensor:
        assert set(batch) == {"x", "key"}
        self.num_rows.append(len(batch["x"]))
        return torch.stack([batch["x"], 2 * batch["x"]], dim=1)


def test_classes_count_from_the_most_frequent_label_and_an_unseen_one_is_none() -> None:
    transform, train = labelled(LABELS)
    assert classification.labels(transform) == ["a", "b", "c"]
    assert torch.bincount(classification.classes(train.table)).tolist() == [30, 15, 5]
    assert classification.classes(transform.apply(pa.table({"label": ["c", "z", "a"]}))).tolist() == [2, -1, 0]


def test_scores_equal_those_of_scikit_learn() -> None:
    given, actual = random_probabilities(), torch.arange(50) % 3
    found = classification.scores(given, actual)
    assert found["accuracy"] == pytest.approx(accuracy_score(actual, given.argmax(1)))
    assert found["log_loss"] == pytest.approx(log_loss(actual, given.numpy()))


def test_a_label_that_training_did_not_show_is_wrong_and_costs_as_much_as_the_least_probability() -> None:
    given = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    found = classification.scores(given, torch.tensor([-1, 1, 0]))
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["log_loss"] == pytest.approx((2 * -np.log(1e-15) + np.log(2)) / 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_a_row_is_the_negative_logarithm_of_its_class_share(smoothing: float) -> None:
    """Smoothed, a part of it is the mean of all classes'."""
    logits, actual = torch.randn(6, 3, dtype=torch.bfloat16), torch.tensor([0, 1, 2, 0, 1, 2])
    each = -logits.float().log_softmax(1)
    expected = ((1 - smoothing) * each[torch.arange(6), actual] + smoothing * each.mean(1)).tolist()
    losses = classification.cross_entropy(logits, {"class": actual}, smoothing)
    assert losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_row_counts_by_the_weight_of_its_class_where_classes_count_alike() -> None:
    logits, actual = torch.randn(4, 2), torch.tensor([0, 0, 0, 1])
    rows = pa.table({"class_weight": [2 / 3, 2 / 3, 2 / 3, 2.0]})
    batch = {"class": actual, **classification.weights(rows)}
    losses = classification.cross_entropy(logits, batch, 0.0)
    each = -logits.log_softmax(1)[torch.arange(4), actual]
    torch.testing.assert_close(losses, each * torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0]))
    assert classification.weights(pa.table({"x": [1]})) == {}


@pytest.mark.parametrize("num_rows", [1, 512, 1300])
def test_probabilities_are_those_of_every_row_in_order_some_at_a_time(num_rows: int) -> None:
    model, values = Doubled(), torch.linspace(-3, 3, num_rows)
    given = classification.probabilities(model, {"x": values})
    assert max(model.num_rows) <= 512
    assert sum(model.num_rows) == num_rows
    torch.testing.assert_close(given[:, 1], values.double().sigmoid())
    torch.testing.assert_close(given.sum(1), torch.ones(num_rows, dtype=torch.float64))


def test_the_shares_of_the_classes_score_as_scikit_learns_prior_does() -> None:
    transform, train = labelled(LABELS)
    asked = ["a", "c", "b", "a", "b"]
    prior = DummyClassifier(strategy="prior").fit(np.zeros((50, 1)), LABELS)
    given = prior.predict_proba(np.zeros((5, 1)))
    found = classification.class_shares(train, transform.apply(pa.table({"label": asked})))
    assert found["log_loss"] == pytest.approx(log_loss(asked, given, labels=["a", "b", "c"]))
    assert found["accuracy"] == pytest.approx(accuracy_score(asked, prior.predict(np.zeros((5, 1)))))


def test_golden_rows_hold_the_label_of_the_largest_probability() -> None:
    transform, _ = labelled(LABELS)
    given = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], dtype=torch.float64)
    table = classification.golden(transform, pa.table({"id": ["1", "2"]}), given)
    assert table.to_pylist() == [
        {"id": "1", "predicted": "c", "probabilities": [0.1, 0.2, 0.7]},
        {"id": "2", "predicted": "a", "probabilities": [0.6, 0.3, 0.1]},
    ]
