import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from jobs.features.words import terms_of, terms_of_all


@settings(max_examples=100)
@given(st.text(), st.booleans(), st.sampled_from([(1, 1), (1, 2), (2, 3)]))
def test_terms_are_those_of_scikit_learn(text: str, lower: bool, ngrams: tuple[int, int]) -> None:
    reference = CountVectorizer(lowercase=lower, ngram_range=ngrams).build_analyzer()
    assert sorted(terms_of(text, lower, ngrams)) == sorted(reference(text))


@pytest.mark.parametrize("text", ["Straße, naïve café", "東京 の 天気", "привет мир", "a I 1 22 x_y"])
def test_words_of_any_script_are_found(text: str) -> None:
    assert list(terms_of(text, True, (1, 1))) == CountVectorizer().build_analyzer()(text)


def test_terms_of_many_texts_know_the_text_they_are_from() -> None:
    texts = ["one two three", None, "", "four"]
    rows, terms = terms_of_all(texts, True, (1, 2))
    assert list(zip(rows.tolist(), terms.to_pylist(), strict=True)) == [
        (row, term) for row, text in enumerate(texts) for term in terms_of(text, True, (1, 2))
    ]
    assert terms_of_all([], True, (1, 1))[1].to_pylist() == []
