"""Recommendations: a loaded version of the recommender, ready to answer, with reasons."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel
from torch import Tensor

from cluster.errors import RegistryError
from jobs.features.vocabulary import UNKNOWN
from jobs.version import Version
from jobs.workloads.ranker import Query, Ranker
from jobs.workloads.recommender import Recommender, RecommenderSpec
from serving.published import TOLERANCE, Published

FOR_STRANGERS = "popular with all users"
FOR_THE_UNDECIDED = "fits your ratings as a whole"


class Item(BaseModel):
    """One recommended item."""

    item_id: str
    title: str | None
    genres: list[str]
    score: float
    """Comparable within one answer only."""
    reason: str


@dataclass(frozen=True)
class Liked:
    """What one user liked in training."""

    items: Tensor
    """Item indices, int64 [liked]."""
    ratings: list[float]


class Recommendations(Published):
    """Answers of one version."""

    def __init__(self, version: str, created_at: str, content: Version) -> None:
        assert isinstance(content.model, Recommender)
        super().__init__(version, created_at, content)
        items = content.transform.lookups["items"]
        self._ids: list[str] = items.column("item_id").to_pylist()
        self._titles: list[str | None] = items.column("title").to_pylist()
        self._genres: list[list[str] | None] = items.column("genres").to_pylist()
        self._ranker = Ranker(content.model, content.transform)
        # Of length 1, so that a product of two is their cosine [items, embedding_dim].
        self._directions = torch.nn.functional.normalize(self._ranker.catalogue.cpu(), dim=1)

    @property
    def workload(self) -> RecommenderSpec:
        """Of that spec the part on the model."""
        assert isinstance(self.spec.workload, RecommenderSpec)
        return self.spec.workload

    def most_active_user(self) -> str:
        """The user with the most training rows."""
        return str(self._content.transform.step("user").state().column("value")[0])

    @property
    def golden_users(self) -> list[str]:
        """Those whose answers in training are known."""
        users: list[str] = self._content.golden.column("user_id").to_pylist()
        return users

    def knows(self, user_id: str) -> bool:
        """Whether training has seen the user."""
        return self._ranker.index("user", user_id) != UNKNOWN

    @property
    def most_at_once(self) -> int:
        """Queries that are best answered together."""
        return self._ranker.most_at_once

    def top(self, queries: Sequence[Query]) -> list[list[Item]]:
        """For each query its best items, best first."""
        found = self._ranker.best(queries)
        return [self._items(query.user_id, best) for query, best in zip(queries, found, strict=True)]

    def check_golden(self) -> None:
        """Raise RegistryError unless each golden user is answered as in training."""
        rows = self._content.golden.to_pylist()
        answers = self.top([Query(row["user_id"]) for row in rows])
        for row, items in zip(rows, answers, strict=True):
            given = {item.item_id: item.score for item in items}
            expected = dict(zip(row["item_ids"], row["scores"], strict=True))
            # Items of one score may come in any order, and which of them is the last may differ.
            last = min(given.values(), default=0.0)
            off = [item for item, score in expected.items() if not _is_close(given.get(item, last), score)]
            if off or len(given) != len(expected):
                raise RegistryError(
                    f"version {self.version} answers user {row['user_id']!r} unlike it did in training: "
                    f"{len(off)} of {len(expected)} golden items are off by more than {TOLERANCE:g}. "
                    "Serve another version, or train this one again with the code that runs here."
                )

    def _items(self, user_id: str, best: Sequence[tuple[int, float]]) -> list[Item]:
        reasons = self._reasons(user_id, [index for index, _ in best])
        return [
            Item(
                item_id=self._ids[index - 1],
                title=self._titles[index - 1],
                genres=self._genres[index - 1] or [],
                score=score,
                reason=reason,
            )
            for (index, score), reason in zip(best, reasons, strict=True)
        ]

    def _reasons(self, user_id: str, items: list[int]) -> list[str]:
        user = self._ranker.index("user", user_id)
        if user == UNKNOWN:
            return [FOR_STRANGERS] * len(items)
        liked = self._liked(user)
        if not liked.ratings:
            return [FOR_THE_UNDECIDED] * len(items)
        nearest = (self._directions[items] @ self._directions[liked.items].T).argmax(dim=1).tolist()
        return [f"similar to {self._name(int(liked.items[i]))}, which you rated {liked.ratings[i]:g}" for i in nearest]

    def _liked(self, user: int) -> Liked:
        items, ratings = self._ranker.rated.with_ratings(user)
        wanted = ratings >= self.workload.relevant_from
        return Liked(items[wanted], ratings[wanted].tolist())

    def _name(self, item: int) -> str:
        return self._titles[item - 1] or self._ids[item - 1]


def _is_close(given: float, expected: float) -> bool:
    return abs(given - expected) <= TOLERANCE * max(1.0, abs(expected))
