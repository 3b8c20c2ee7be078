import pytest
import torch

from jobs.workloads.rated_items import RatedItems
from jobs.workloads.recommender import RecommenderSpec
from tests.jobs.workloads.example import Prepared, made_up, prepare


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(*made_up(), RecommenderSpec())


def test_a_users_items_and_ratings_are_those_of_the_training_rows(prepared: Prepared) -> None:
    rated, rows = RatedItems(prepared.transform), prepared.train.table.to_pylist()
    users = torch.tensor([3, 1, 3])
    for user, items in zip(users.tolist(), rated.of(users), strict=True):
        expected = sorted((row["item"], row["rating"]) for row in rows if row["user"] == user)
        assert expected
        same, ratings = rated.with_ratings(user)
        assert items.equal(same)
        assert list(zip(items.tolist(), ratings.tolist(), strict=True)) == expected


def test_the_unknown_user_rated_nothing(prepared: Prepared) -> None:
    rated = RatedItems(prepared.transform)
    [items] = rated.of(torch.tensor([0]))
    assert [len(each) for each in rated.with_ratings(0)] == [0, 0]
    assert (items.dtype, len(items)) == (torch.int64, 0)
