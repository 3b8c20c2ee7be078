import numpy as np
import pyarrow as pa
import pytest

from jobs.features.near_duplicates import NUM_HASHES, NearDuplicates
from jobs.features.split import TrainRows
from jobs.features.words import terms_of
from tests.jobs.features.fitting import fitted, made, table

STEP = NearDuplicates(column="x", key="id", similarity=0.7, run_words=3)


def article(seed: int, num_words: int = 300) -> list[str]:
    return [f"word{n}" for n in np.random.default_rng(seed).integers(0, 5000, num_words)]


def edited(words: list[str], num_changes: int, seed: int = 0) -> list[str]:
    draw, changed = np.random.default_rng(seed), list(words)
    for place in draw.choice(len(words), num_changes, replace=False):
        changed[place] = f"edit{draw.integers(1000)}"
    return changed


def overlap(one: list[str], other: list[str]) -> float:
    """Jaccard's index of the runs."""
    runs = [set(terms_of(" ".join(words), True, (3, 3))) for words in (one, other)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def rows(texts: list[list[str]]) -> pa.Table:
    return table(id=[f"d{n:03}" for n in range(len(texts))], x=[" ".join(words) for words in texts])


def left_out(step: NearDuplicates, given: pa.Table) -> set[str]:
    kept = step.keeps(given).to_pylist()
    return {key for key, stays in zip(given.column("id").to_pylist(), kept, strict=True) if not stays}


def test_texts_with_few_edits_are_left_out_and_other_ones_stay() -> None:
    originals = [article(seed) for seed in range(20)]
    near = [edited(words, 5) for words in originals[:10]]
    apart = [edited(words, 150) for words in originals[:10]]
    assert min(overlap(*pair) for pair in zip(originals, near, strict=False)) > 0.85
    assert max(overlap(*pair) for pair in zip(originals, apart, strict=False)) < 0.4
    given = rows([*originals, *near, *apart])
    step = fitted(STEP, given, [7, 25])
    assert left_out(step, given) == {f"d{n:03}" for n in range(20, 30)}
    assert step.told() == "x: 10 near duplicates among the training rows"


@pytest.mark.parametrize("num_changes", [2, 10, 30, 80])
def test_signatures_agree_as_often_as_runs_overlap(num_changes: int) -> None:
    one = article(1)
    other = edited(one, num_changes)
    signatures = STEP.statistics(TrainRows(rows([one, other]))).column("signature").to_pylist()
    agreeing = np.mean(np.array(signatures[0]) == np.array(signatures[1]))
    assert agreeing == pytest.approx(overlap(one, other), abs=4 * 0.5 / np.sqrt(NUM_HASHES))


def test_of_copies_the_one_with_the_smallest_key_stays() -> None:
    given = rows([article(1), article(2), article(1), article(1)])
    assert left_out(fitted(STEP, given, [1, 2]), given) == {"d002", "d003"}


def test_any_parts_in_any_order_leave_out_the_same_rows() -> None:
    given = rows([edited(article(seed % 5), 3, seed) for seed in range(40)])
    whole = fitted(STEP, given)
    assert whole == fitted(STEP, given, [3, 20, 39])
    assert len(left_out(whole, given)) == 35


def test_short_and_missing_texts_stay() -> None:
    given = table(id=["a", "b", "c", "d"], x=["too short", "too short", None, None])
    step = fitted(STEP, given)
    assert left_out(step, given) == set()
    assert made(step, given) == {}
