import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from jobs.features.class_weight import ClassWeight
from tests.jobs.features.fitting import WORDS, fitted, known, made, table, text


@settings(max_examples=60)
@given(st.lists(WORDS, min_size=1), st.lists(WORDS, min_size=1), st.lists(st.integers(0, 50), max_size=3))
def test_weights_are_those_of_scikit_learn_and_1_for_what_training_did_not_show(
    train: list[str | None], later: list[str | None], cuts: list[int]
) -> None:
    step = fitted(ClassWeight(column="x", output="y"), table(x=text(train)), cuts)
    words = known(train)
    classes = np.array(sorted(set(words)), object)
    weights = compute_class_weight("balanced", classes=classes, y=np.array(words, object)) if words else []
    of_class = dict(zip(classes, weights, strict=True))
    wanted = [1.0 if word is None else of_class.get(word, 1.0) for word in later]
    assert made(step, table(x=text(later)))["y"] == pytest.approx(wanted)
    if words:
        assert sum(of_class[word] for word in words) == pytest.approx(len(words))


def test_it_tells_the_weights() -> None:
    step = fitted(ClassWeight(column="x", output="y"), table(x=["a", "a", "a", "b"]), [])
    assert step.told() == "x: a 0.667, b 2"
