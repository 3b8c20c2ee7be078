from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from jobs.features.bag_of_words import BagOfWords
from tests.jobs.features.fitting import fitted, made, table, text

WORDS = st.sampled_from(["red", "Green", "blue", "çay", "東京", "x1"])
TEXTS = st.lists(st.lists(WORDS, max_size=6).map(" ".join), min_size=1, max_size=12)
WEIGHTS = st.sampled_from(["count", "binary", "tf_idf"])
EVERY_TERM = 1000


@settings(max_examples=60)
@given(
    TEXTS,
    TEXTS,
    st.sampled_from(["count", "binary", "tf_idf"]),
    st.booleans(),
    st.lists(st.integers(0, 12), max_size=3),
)
def test_entries_are_those_of_scikit_learn(
    train: list[str], later: list[str], weight: str, normalize: bool, cuts: list[int]
) -> None:
    assume(any(train))
    step = BagOfWords.model_validate(
        {
            "column": "x",
            "output": "y",
            "max_features": EVERY_TERM,
            "weight": weight,
            "normalize": normalize,
            "ngrams": (1, 2),
        }
    )
    found = made(fitted(step, table(x=text(train)), cuts), table(x=text(later)))["y"]
    norm = "l2" if normalize else None
    reference = TfidfVectorizer(ngram_range=(1, 2), binary=weight == "binary", use_idf=weight == "tf_idf", norm=norm)
    reference.fit(train)
    np.testing.assert_allclose(found, reference.transform(later).toarray(), rtol=1e-6)


def test_the_terms_seen_most_often_stay_within_the_bounds_on_texts() -> None:
    train = ["all rare", "all often often", "all often twice twice", "all twice"]
    step = fitted(BagOfWords(column="x", output="y", max_features=2, min_count=2, max_share=0.9), table(x=train))
    reference = CountVectorizer(min_df=2, max_df=0.9, max_features=2).fit(train)
    assert step.told() == "x: 2 terms: often, twice"
    assert sorted(reference.vocabulary_) == ["often", "twice"]


def test_a_missing_text_has_no_terms_but_counts_as_a_text() -> None:
    step = fitted(BagOfWords(column="x", output="y", max_features=5, normalize=False), table(x=["one", None, None]))
    assert made(step, table(x=["one", None, "other"]))["y"] == [
        [pytest.approx(1 + np.log((1 + 3) / (1 + 1)))],
        [0.0],
        [0.0],
    ]


def test_texts_without_a_word_leave_no_entry() -> None:
    step = fitted(BagOfWords(column="x", output="y", max_features=5), table(x=text([None, "!"])))
    assert made(step, table(x=["one"]))["y"] == [[]]


@pytest.mark.parametrize("fields", [{"ngrams": (2, 1)}, {"ngrams": (0, 1)}])
def test_runs_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"ngrams=.* is no range of numbers of words; give such as \[1, 2\]"):
        BagOfWords.model_validate({"column": "x", "output": "y", "max_features": 5, **fields})
