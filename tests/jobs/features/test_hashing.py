import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.features.hashing import Hashing
from tests.jobs.features.fitting import WORDS, made, table, text
from tests.jobs.features.test_row_hash import by_hand


@settings(max_examples=60)
@given(st.lists(WORDS, min_size=1), st.integers(1, 9))
def test_a_category_is_in_the_bucket_of_its_hash_and_missing_stays_missing(
    values: list[str | None], num_buckets: int
) -> None:
    step = Hashing(column="x", output="y", num_buckets=num_buckets)
    expected = [None if value is None else float(by_hand([value]) % num_buckets) for value in values]
    assert made(step, table(x=text(values)))["y"] == expected
    assert not step.learns


def test_categories_are_spread_evenly() -> None:
    step = Hashing(column="x", output="y", num_buckets=20)
    found = step.apply(table(x=[f"category {n}" for n in range(20_000)])).column("y").to_numpy()
    counts = np.bincount(found.astype(int), minlength=20)
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square of 19 degrees of freedom, one in a thousand
