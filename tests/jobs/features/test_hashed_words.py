import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.features.hashed_words import HashedWords
from tests.jobs.features.fitting import made, table, text

WORDS = st.lists(st.sampled_from(["red", "Green", "blue", "çay", "東京", "x1"]), max_size=8)


@settings(max_examples=60)
@given(st.lists(WORDS, min_size=1, max_size=8), st.integers(1, 20))
def test_a_text_is_the_sum_of_its_words(texts: list[list[str]], num_features: int) -> None:
    step = HashedWords(column="x", output="y", num_features=num_features)
    found = made(step, table(x=text([" ".join(words) for words in texts])))["y"]
    for words, entries in zip(texts, found, strict=True):
        parts = [step.apply_row({"x": word})["y"] for word in words]
        assert entries == np.sum(parts or [[0.0] * num_features], axis=0).tolist()
        assert all(np.abs(part).sum() == 1 for part in parts)


def test_terms_that_share_an_entry_cancel_out_on_average() -> None:
    step = HashedWords(column="x", output="y", num_features=8)
    found = np.array(step.apply(table(x=[f"word{n}" for n in range(8000)])).column("y").to_pylist())
    assert (np.abs(found).sum(0) > 800).all()
    assert (np.abs(found.sum(0)) < 4 * np.sqrt(1000)).all()


def test_a_missing_text_has_no_terms() -> None:
    assert made(HashedWords(column="x", output="y", num_features=2), table(x=text([None])))["y"] == [[0.0, 0.0]]
