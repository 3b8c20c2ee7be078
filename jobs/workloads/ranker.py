"""Ranker: a trained recommender with all that it looks up at hand, which answers many users at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jobs.features.transform import Transform
from jobs.workloads.device import device_of
from jobs.workloads.ranking import USERS_AT_ONCE, K, top_items
from jobs.workloads.rated_items import RatedItems

if TYPE_CHECKING:
    from jobs.workloads.recommender import Recommender

SCORES_AT_ONCE = 2**22
"""16 MiB; more, and a batch costs what memory that is new costs."""


@dataclass(frozen=True)
class Query:
    """Whom to recommend to, how much, and what to leave out besides the items that the user rated in training."""

    user_id: str
    k: int = K
    exclude: Sequence[str] = ()
    """Ids of items; one that training has not seen is passed over."""


class Ranker:
    """The items that users want next."""

    def __init__(self, model: "Recommender", transform: Transform) -> None:
        self._model, self._transform = model, transform
        self.rated = RatedItems(transform)
        with torch.no_grad():
            self.catalogue = model.catalogue()
            """The vectors of all items, where the model computes [items, embedding_dim]."""

    @property
    def most_at_once(self) -> int:
        """Queries that are best answered together."""
        return min(USERS_AT_ONCE, max(1, SCORES_AT_ONCE // len(self.catalogue)))

    @torch.no_grad()
    def best(self, queries: Sequence[Query]) -> list[list[tuple[int, float]]]:
        """For each query the indices of its best items with their scores, best first; fewer where the catalogue ends.

        An unknown user gets what users want in general.
        """
        users = torch.tensor([self.index("user", query.user_id) for query in queries])
        scores = self._model.scores(users.to(device_of(self._model)), self.catalogue)
        left_out = [
            torch.cat([rated, self._indices(query.exclude)])
            for rated, query in zip(self.rated.of(users), queries, strict=True)
        ]
        top = top_items(scores, left_out, min(max(query.k for query in queries), scores.shape[1]))
        found = zip(queries, top.tolist(), scores.gather(1, top).tolist(), strict=True)
        return [
            [(item, score) for item, score in zip(items[: query.k], values, strict=False) if math.isfinite(score)]
            for query, items, values in found
        ]

    def index(self, column: str, value: str) -> int:
        """Of a user's or an item's id, by `column`; 0 where training has not seen it."""
        return int(self._transform.step(column).apply_row({f"{column}_id": value})[column])

    def _indices(self, item_ids: Sequence[str]) -> Tensor:
        return torch.tensor([self.index("item", item_id) for item_id in item_ids], dtype=torch.int64)
