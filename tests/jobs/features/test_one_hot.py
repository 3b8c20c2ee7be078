from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import OneHotEncoder

from cluster.errors import DataError
from jobs.features.one_hot import MAX_ENTRIES, OneHot
from tests.jobs.features.fitting import WORDS, fitted, made, table, text


@settings(max_examples=60)
@given(
    st.lists(WORDS.filter(lambda word: word is not None), min_size=1),
    st.lists(WORDS, min_size=1),
    st.lists(st.integers(0, 50), max_size=3),
)
def test_entries_are_those_of_scikit_learn_and_what_training_did_not_show_has_the_last(
    train: list[str], given_later: list[str | None], cuts: list[int]
) -> None:
    step = fitted(OneHot(column="x", output="y"), table(x=train), cuts)
    reference = OneHotEncoder(
        categories=[sorted(set(train), key=str.encode)], sparse_output=False, handle_unknown="ignore"
    )
    reference.fit(np.array(train, object)[:, None])
    found = np.array(made(step, table(x=text(given_later)))["y"])
    words = np.array([word if word is not None else "\0 never" for word in given_later], object)
    np.testing.assert_array_equal(found[:, :-1], reference.transform(words[:, None]))
    assert (found.sum(1) == 1).all()
    assert step.size == found.shape[1]


def test_rare_categories_and_those_beyond_the_most_frequent_are_others() -> None:
    words = [*"aaaa", *"bbb", *"cc", *"dd", "e"]
    few = fitted(OneHot(column="x", output="y", max_categories=3), table(x=words))
    often = fitted(OneHot(column="x", output="y", min_count=3, others="zeros"), table(x=words))
    kept = {few: "abc", often: "ab"}
    for step, letters in kept.items():
        entries = made(step, table(x=list(Counter(words))))["y"]
        assert [sum(row[: len(letters)]) for row in entries] == [float(word in letters) for word in Counter(words)]
    assert made(often, table(x=["e", None]))["y"] == [[0.0, 0.0], [0.0, 0.0]]
    assert few.told() == "x: a, b, c; others"


def test_no_category_at_all_leaves_the_others() -> None:
    step = fitted(OneHot(column="x", output="y"), table(x=["a"]).slice(0, 0))
    assert made(step, table(x=["a", None]))["y"] == [[1.0], [1.0]]


def test_more_categories_than_a_list_may_have_are_refused_with_the_way_out() -> None:
    words = [f"w{n}" for n in range(MAX_ENTRIES + 1)]
    with pytest.raises(DataError, match="'x' has 16,385 categories, one_hot makes at most 16,384 entries; give"):
        fitted(OneHot(column="x", output="y"), table(x=words))
    assert fitted(OneHot(column="x", output="y", max_categories=2), table(x=words)).size == 3
