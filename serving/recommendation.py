"""Recommendations: a loaded version of the recommender, ready to answer, with reasons."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from cluster.errors import RegistryError
from jobs.features.vocabulary import UNKNOWN
from jobs.version import Version
from jobs.workloads.device import device_of
from jobs.workloads.ranking import K
from jobs.workloads.recommender import Recommender, RecommenderSpec, recommend
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
        self._model: Recommender = content.model
        items = content.transform.lookups["items"]
        self._ids: list[str] = items.column("item_id").to_pylist()
        self._titles: list[str | None] = items.column("title").to_pylist()
        self._genres: list[list[str] | None] = items.column("genres").to_pylist()
        self._directions = _directions(self._model, len(self._ids) + 1)
        history = content.transform.lookups["history"]
        self._history = {name: history.column(name).to_numpy() for name in ("user", "item", "rating")}

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
        return self._index("user", user_id) != UNKNOWN

    def top(self, user_id: str, k: int, exclude: Sequence[str]) -> list[Item]:
        """The best `k` items, best first; an id in `exclude` that training has not seen is passed over."""
        left_out = tuple(self._index("item", item_id) for item_id in exclude)
        best = recommend(self._model, self._content.transform, user_id, k, left_out)
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

    def check_golden(self) -> None:
        """Raise RegistryError unless each golden user is answered as in training."""
        for row in self._content.golden.to_pylist():
            given = {item.item_id: item.score for item in self.top(row["user_id"], K, ())}
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

    def _index(self, column: str, value: str) -> int:
        return int(self._content.transform.step(column).apply_row({f"{column}_id": value})[column])

    def _reasons(self, user_id: str, items: list[int]) -> list[str]:
        user = self._index("user", user_id)
        if user == UNKNOWN:
            return [FOR_STRANGERS] * len(items)
        liked = self._liked(user)
        if not liked.ratings:
            return [FOR_THE_UNDECIDED] * len(items)
        nearest = (self._directions[items] @ self._directions[liked.items].T).argmax(dim=1).tolist()
        return [f"similar to {self._name(int(liked.items[i]))}, which you rated {liked.ratings[i]:g}" for i in nearest]

    def _liked(self, user: int) -> Liked:
        start, end = np.searchsorted(self._history["user"], [user, user + 1])
        items, ratings = self._history["item"][start:end], self._history["rating"][start:end]
        wanted = ratings >= self.workload.relevant_from
        return Liked(torch.from_numpy(items[wanted].astype(np.int64)), ratings[wanted].tolist())

    def _name(self, item: int) -> str:
        return self._titles[item - 1] or self._ids[item - 1]


@torch.no_grad()
def _directions(model: Recommender, num_items: int) -> Tensor:
    """Each item's vector at length 1, so that a product of two is their cosine [items, embedding_dim]."""
    vectors = model.item_vectors(torch.arange(num_items, device=device_of(model))).cpu()
    return torch.nn.functional.normalize(vectors, dim=1)


def _is_close(given: float, expected: float) -> bool:
    return abs(given - expected) <= TOLERANCE * max(1.0, abs(expected))
