import math

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score, root_mean_squared_error

from jobs.workloads.ranking import LARGE, ranking_metrics, rmse, top_items

NONE_SEEN = torch.empty(0, dtype=torch.int64)


def drawn(seed: int, num_users: int = 30, num_items: int = 50) -> tuple[np.ndarray, list[set[int]]]:
    """Scores without ties, and what each user wants: some of it outside the catalogue, as negative numbers."""
    draw = np.random.default_rng(seed)
    scores = np.stack([draw.permutation(num_items) for _ in range(num_users)]).astype(np.float32)
    relevant = [
        set(draw.integers(1, num_items, draw.integers(1, 25)).tolist()) | set(range(-int(draw.integers(0, 3)), 0))
        for _ in range(num_users)
    ]
    return scores, relevant


@pytest.mark.parametrize("k", [1, 10, 40])
@pytest.mark.parametrize("seed", range(3))
def test_ndcg_equals_that_of_scikit_learn_over_the_whole_catalogue(seed: int, k: int) -> None:
    scores, relevant = drawn(seed)
    top = top_items(torch.from_numpy(scores.copy()), [NONE_SEEN] * len(scores), k)
    expected = []
    for row, wanted in zip(scores, relevant, strict=True):
        unreachable = [item for item in wanted if item < 0]
        truth = [float(item in wanted) for item in range(1, len(row))] + [1.0] * len(unreachable)
        predicted = [*row[1:], *range(-len(unreachable), 0)]
        expected.append(ndcg_score([truth], [predicted], k=k))
    assert ranking_metrics(top, relevant)[0] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("seed", range(3))
def test_hit_rate_is_the_share_of_users_with_a_wanted_item_among_the_first(seed: int) -> None:
    scores, relevant = drawn(seed)
    top = top_items(torch.from_numpy(scores.copy()), [NONE_SEEN] * len(scores), 3)
    scores[:, 0] = -1
    hits = [bool(set(np.argsort(-row)[:3].tolist()) & wanted) for row, wanted in zip(scores, relevant, strict=True)]
    assert ranking_metrics(top, relevant)[1] == np.mean(hits)
    assert 0 < np.mean(hits) < 1


def test_a_wanted_item_in_second_place_gains_one_over_log2_of_three() -> None:
    top = torch.tensor([[7, 5, 9]])
    assert ranking_metrics(top, [{5}]) == (pytest.approx(1 / math.log2(3)), 1.0)
    assert ranking_metrics(top, [{7}]) == (1.0, 1.0)
    assert ranking_metrics(top, [{1}]) == (0.0, 0.0)


def test_a_wanted_item_that_no_ranking_can_hold_lowers_ndcg() -> None:
    top = torch.tensor([[7, 5, 9]])
    assert ranking_metrics(top, [{7, -1}])[0] == pytest.approx(1 / (1 + 1 / math.log2(3)))


@pytest.mark.parametrize("seed", range(3))
def test_top_items_are_the_best_unseen_ones(seed: int) -> None:
    scores, seen = drawn(seed)
    seen = [{item for item in items if item > 0} for items in seen]
    top = top_items(torch.from_numpy(scores.copy()), [torch.tensor(sorted(items)) for items in seen], 10)
    for row, items, found in zip(scores, seen, top.tolist(), strict=True):
        candidates = [item for item in range(1, len(row)) if item not in items]
        assert found == sorted(candidates, key=lambda item: -row[item])[:10]


def test_places_that_no_item_is_left_for_hold_the_unknown_item() -> None:
    top = top_items(torch.tensor([[9.0, 1.0, 3.0, 2.0]]), [torch.tensor([2])], 6)
    assert top.tolist() == [[3, 1, 0, 0, 0, 0]]
    assert ranking_metrics(top, [{3, 2}])[0] == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_rmse_equals_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    predicted, actual = draw.normal(3, 1, 1000).astype(np.float32), draw.integers(1, 6, 1000).astype(np.float32)
    expected = root_mean_squared_error(actual.astype(np.float64), predicted.astype(np.float64))
    assert rmse(torch.from_numpy(predicted), torch.from_numpy(actual)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_items", [LARGE, LARGE + 77])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_the_best_of_a_large_catalogue_are_those_of_all(num_items: int, k: int) -> None:
    draw = np.random.default_rng(k)
    scores = np.stack([draw.permutation(num_items) for _ in range(3)]).astype(np.float32)
    scores[0].sort()  # the best lie side by side, behind the last block
    seen = [np.argsort(-row)[:5] for row in scores]
    top = top_items(torch.from_numpy(scores.copy()), [torch.from_numpy(items) for items in seen], k)
    for row, items, found in zip(scores, seen, top.tolist(), strict=True):
        row[[0, *items]] = -1
        assert found == np.argsort(-row)[:k].tolist()


def test_a_large_catalogue_of_which_little_is_left_ends_with_the_unknown_item() -> None:
    scores = torch.full((1, LARGE), -torch.inf)
    scores[0, [5, 20_000]] = torch.tensor([1.0, 2.0])
    assert top_items(scores, [NONE_SEEN], 4).tolist() == [[20_000, 5, 0, 0]]
