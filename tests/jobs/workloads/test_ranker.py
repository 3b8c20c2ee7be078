import pytest
import torch

from jobs.workloads.ranker import Query, Ranker
from tests.jobs.workloads.example import Prepared, all_scores, made_up, prepare
from tests.jobs.workloads.test_recommender import SPEC, model_of


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(*made_up(), SPEC)


@pytest.fixture(scope="module")
def ranker(prepared: Prepared) -> Ranker:
    return Ranker(model_of(prepared), prepared.transform)


def ids(prepared: Prepared) -> list[str]:
    """Of all items, by their indices less one."""
    found: list[str] = prepared.transform.lookups["items"].column("item_id").to_pylist()
    return found


def test_the_best_items_are_outside_history_and_exclusions(prepared: Prepared, ranker: Ranker) -> None:
    scores = all_scores(model_of(prepared), prepared.transform)
    users, exclude = ("u0", "u7", "u39"), (1, 2, 3)
    left_out = [ids(prepared)[item - 1] for item in exclude]
    answers = ranker.best([Query(user_id, 10, left_out) for user_id in users])
    for user_id, answer in zip(users, answers, strict=True):
        user = prepared.transform.step("user").apply_row({"user_id": user_id})["user"]
        seen = {row["item"] for row in prepared.train.table.to_pylist() if row["user_id"] == user_id}
        candidates = [item for item in range(1, scores.shape[1]) if item not in seen and item not in exclude]
        best = sorted(candidates, key=lambda item: -scores[user, item])[:10]
        assert [item for item, _ in answer] == best
        assert [score for _, score in answer] == pytest.approx([scores[user, item] for item in best])
        assert [score for _, score in answer] == sorted((score for _, score in answer), reverse=True)


@pytest.mark.parametrize("k", [1, 5, 10**9])
def test_an_answer_ends_with_k_or_with_the_catalogue(prepared: Prepared, ranker: Ranker, k: int) -> None:
    seen = {row["item"] for row in prepared.train.table.to_pylist() if row["user_id"] == "u0"}
    num_left = len(ids(prepared)) - len(seen) - 1
    unseen = next(item for item in range(1, 100) if item not in seen)
    answer, other = ranker.best([Query("u0", k, [ids(prepared)[unseen - 1]]), Query("u1", 3)])
    assert len(answer) == min(k, num_left)
    assert len({item for item, _ in answer}) == len(answer)
    assert len(other) == 3


def test_an_unknown_user_is_recommended_what_users_want_in_general(prepared: Prepared, ranker: Ranker) -> None:
    [answer] = ranker.best([Query("never seen", 5)])
    popular = model_of(prepared).popularity.weight.detach().squeeze(1)[1:].argsort(descending=True)[:5] + 1
    assert [item for item, _ in answer] == popular.tolist()


def test_an_exclusion_that_training_has_not_seen_is_passed_over(ranker: Ranker) -> None:
    [with_it], [without] = ranker.best([Query("u0", 5, ["no such item"])]), ranker.best([Query("u0", 5)])
    assert [item for item, _ in with_it] == [item for item, _ in without]


def test_excluding_everything_leaves_an_empty_answer(prepared: Prepared, ranker: Ranker) -> None:
    assert ranker.best([Query("u0", 10, ids(prepared))]) == [[]]


@pytest.mark.parametrize(("num_scores", "most"), [(2**22, 256), (200, 3), (1, 1)])
def test_so_many_are_answered_together_that_their_scores_take_little_memory(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch, num_scores: int, most: int
) -> None:
    monkeypatch.setattr("jobs.workloads.ranker.SCORES_AT_ONCE", num_scores)
    assert ranker.most_at_once == most


def test_the_catalogue_at_hand_scores_as_the_model_does(prepared: Prepared, ranker: Ranker) -> None:
    model, users = model_of(prepared), torch.arange(4)
    with torch.no_grad():
        assert torch.equal(model.scores(users), model.scores(users, ranker.catalogue))
