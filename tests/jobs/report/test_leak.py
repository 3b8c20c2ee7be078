import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import mutual_info_score, roc_auc_score

from jobs.report.leak import auc, suspicion, told_share

RANDOM = np.random.default_rng(0)
CLASSES = RANDOM.integers(0, 2, 5000)
LABEL = pa.chunked_array([pa.array(np.where(CLASSES == 1, "yes", "no"))])


def chunked(values: object) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


def test_the_area_is_that_of_scikit_learn() -> None:
    feature = np.round(RANDOM.normal(size=5000) - CLASSES, 1)
    expected = roc_auc_score(CLASSES, feature)
    assert auc(chunked(feature), CLASSES == 1) == pytest.approx(max(expected, 1 - expected))


def test_the_share_told_is_that_of_scikit_learn_less_what_chance_tells() -> None:
    feature = RANDOM.integers(0, 4, 5000) + 3 * CLASSES
    words = chunked([f"w{value}" for value in feature])
    by_chance = 6 / (2 * 5000)
    expected = (mutual_info_score(CLASSES, feature) - by_chance) / mutual_info_score(CLASSES, CLASSES)
    assert told_share(words, CLASSES) == pytest.approx(expected)
    assert told_share(chunked(feature), CLASSES) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (CLASSES + RANDOM.normal(0, 0.1, 5000), "area under the ROC curve of 1.000"),
        (-CLASSES.astype(float), "area under the ROC curve of 1.000"),
        ([f"code {value}" for value in CLASSES], "tells 100.0% of what there is to know"),
        ([None if value else "x" for value in CLASSES], "tells 100.0% of what there is to know"),
    ],
    ids=["noisy", "reversed", "text", "missing"],
)
def test_what_nearly_equals_the_label_is_suspicious(feature: object, said: str) -> None:
    assert said in (suspicion(chunked(feature), LABEL) or "")


@pytest.mark.parametrize(
    "feature",
    [RANDOM.normal(size=5000), CLASSES + RANDOM.normal(size=5000), [f"row {n}" for n in range(5000)], [[1.0]] * 5000],
    ids=["unrelated", "useful", "key", "lists"],
)
def test_an_honest_feature_is_not(feature: object) -> None:
    assert suspicion(chunked(feature), LABEL) is None


def test_few_rows_and_a_label_of_one_class_say_nothing() -> None:
    assert suspicion(chunked(CLASSES[:50]), LABEL.slice(0, 50)) is None
    assert suspicion(chunked(CLASSES), chunked(["a"] * 5000)) is None
