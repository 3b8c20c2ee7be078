from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import TargetEncoder

from jobs.features.row_hash import row_hashes
from jobs.features.target_encoding import TargetEncoding
from tests.jobs.features.fitting import NUMBERS, WORDS, fitted, made, table

STEP = TargetEncoding(column="x", output="y", target="label", positive="yes", key="id", smoothing=3.0, num_folds=4)
ROWS = st.lists(st.tuples(WORDS, st.sampled_from(["yes", "no", None])), min_size=1, max_size=60)
Rows = list[tuple[str | None, str | None]]


def rows_of(pairs: Rows) -> pa.Table:
    words, labels = zip(*pairs, strict=True)
    columns = {"id": [f"r{n}" for n in range(len(pairs))], "x": words, "label": labels, "split": ["train"] * len(pairs)}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def share(pairs: Rows, word: str | None, smoothing: float = 3.0) -> float:
    """By the definition, of what is given."""
    known = [(one, label) for one, label in pairs if label is not None]
    overall = sum(label == "yes" for _, label in known) / max(len(known), 1)
    same = [label == "yes" for one, label in known if one == word] if word is not None else []
    return (sum(same) + smoothing * overall) / (len(same) + smoothing) if same else overall


@settings(max_examples=60)
@given(ROWS, st.lists(st.integers(0, 60), max_size=3))
def test_a_training_row_gets_the_share_of_the_other_folds_and_any_other_row_that_of_all(
    pairs: Rows, cuts: list[int]
) -> None:
    rows = rows_of(pairs)
    step = fitted(STEP, rows, cuts)
    assert step == fitted(STEP, rows)
    served = made(step, rows.set_column(3, "split", pa.array(["test"] * len(pairs))))["y"]
    assert served == pytest.approx([share(pairs, word) for word, _ in pairs])
    folds = row_hashes([rows.column("id")]) % np.uint64(4)
    trained = step.apply(rows).column("y").to_pylist()
    for place, (word, _) in enumerate(pairs):
        others = [pair for pair, fold in zip(pairs, folds, strict=True) if fold != folds[place]]
        assert trained[place] == pytest.approx(share(others, word))


def test_of_all_folds_it_is_scikit_learns_m_estimate() -> None:
    draw = np.random.default_rng(0)
    words = draw.choice(list("abcdef"), 300)
    labels = np.where(draw.random(300) < (words < "c") * 0.5 + 0.2, "yes", "no")
    step = fitted(STEP, rows_of(list(zip(words.tolist(), labels.tolist(), strict=True))))
    reference = TargetEncoder(smooth=3.0, target_type="binary").fit(words[:, None], labels == "yes")
    expected = dict(zip(reference.categories_[0], reference.encodings_[0], strict=True))
    assert [step.apply_row({"x": word})["y"] for word in expected] == pytest.approx(list(expected.values()))


def test_the_target_of_a_row_never_moves_its_own_encoding() -> None:
    pairs: Rows = [(word, "no") for word in "aabbbcccc" * 5]
    before = fitted(STEP, rows_of(pairs)).apply(rows_of(pairs)).column("y").to_pylist()
    for place in range(0, len(pairs), 7):
        changed: Rows = [*pairs[:place], (pairs[place][0], "yes"), *pairs[place + 1 :]]
        after = fitted(STEP, rows_of(changed)).apply(rows_of(changed)).column("y").to_pylist()
        assert after[place] == before[place]
        assert after != before


def test_a_category_that_training_did_not_show_gets_the_overall_share() -> None:
    step = fitted(STEP, rows_of([("a", "yes"), ("b", "no"), ("b", "no"), ("b", None)]))
    assert step.apply_row({"x": "z"}) == step.apply_row({"x": None}) == {"y": pytest.approx(1 / 3)}
    assert "0.3333 are 'yes'; 2 categories" in step.told()


def test_no_target_at_all_is_a_share_of_nothing() -> None:
    step = fitted(STEP, rows_of([("a", None)]))
    assert made(
        step, table(x=["a"], label=["no"], id=["r"]).drop_columns(["split"]).append_column("split", pa.array(["test"]))
    )["y"] == [0.0]


OF_NUMBERS = TargetEncoding(column="x", output="y", target="t", key="id", smoothing=3.0, num_folds=4)
Numbers = list[tuple[str | None, float | None]]


def rows_with(pairs: Numbers, split: str = "train") -> pa.Table:
    words, targets = zip(*pairs, strict=True)
    labelled = rows_of([(word, None) for word in words]).drop_columns(["label", "split"])
    targeted = labelled.append_column("t", pa.array(targets, pa.float64()))
    return targeted.append_column("split", pa.array([split] * len(pairs)))


def mean(pairs: Numbers, word: str | None) -> float:
    """By the definition, of what is given."""
    known = [(one, Fraction(target)) for one, target in pairs if target is not None]
    overall = sum(target for _, target in known) / Fraction(max(len(known), 1))
    same = [target for one, target in known if one == word] if word is not None else []
    return float((sum(same) + 3 * overall) / (len(same) + 3))


@settings(max_examples=60)
@given(st.lists(st.tuples(WORDS, NUMBERS), min_size=1, max_size=60), st.lists(st.integers(0, 60), max_size=3))
def test_of_a_target_of_numbers_it_is_the_mean_whatever_the_parts(pairs: Numbers, cuts: list[int]) -> None:
    rows = rows_with(pairs)
    step = fitted(OF_NUMBERS, rows, cuts)
    assert step == fitted(OF_NUMBERS, rows)
    size = max([abs(target) for _, target in pairs if target is not None], default=0.0)
    served = made(step, rows_with(pairs, "test"))["y"]
    assert served == pytest.approx([mean(pairs, word) for word, _ in pairs], rel=1e-12, abs=1e-13 * size)
    folds = row_hashes([rows.column("id")]) % np.uint64(4)
    trained = step.apply(rows).column("y").to_pylist()
    for place, (word, _) in enumerate(pairs):
        others = [pair for pair, fold in zip(pairs, folds, strict=True) if fold != folds[place]]
        assert trained[place] == pytest.approx(mean(others, word), rel=1e-12, abs=1e-13 * size)


def test_of_a_target_of_numbers_it_is_scikit_learns_m_estimate() -> None:
    draw = np.random.default_rng(0)
    words, targets = draw.choice(list("abcdef"), 300), draw.lognormal(0, 5, 300)
    step = fitted(OF_NUMBERS, rows_with(list(zip(words.tolist(), targets.tolist(), strict=True))))
    reference = TargetEncoder(smooth=3.0, target_type="continuous").fit(words[:, None], targets)
    expected = dict(zip(reference.categories_[0], reference.encodings_[0], strict=True))
    assert [step.apply_row({"x": word})["y"] for word in expected] == pytest.approx(list(expected.values()))
    assert step.told().endswith("is the mean of t; 6 categories")
    assert step.reads["t"] == "number"


def test_a_number_of_a_row_never_moves_its_own_encoding() -> None:
    pairs: Numbers = [(word, 1.5) for word in "aabbbcccc" * 5]
    before = fitted(OF_NUMBERS, rows_with(pairs)).apply(rows_with(pairs)).column("y").to_pylist()
    for place in range(0, len(pairs), 7):
        changed: Numbers = [*pairs[:place], (pairs[place][0], -1e9), *pairs[place + 1 :]]
        after = fitted(OF_NUMBERS, rows_with(changed)).apply(rows_with(changed)).column("y").to_pylist()
        assert after[place] == before[place]
        assert after != before
