"""recommender: predicts a user's rating of an item, and the items a user wants next.

A factor model after Koren, Bell and Volinsky (2009) with two heads on shared embeddings: ratings by squared error,
and the next items by softmax over sampled items (Covington et al., 2016). An item's vector is its own embedding
plus the mean of its genres' embeddings.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from cluster.errors import DataError
from cluster.spec import Spec
from jobs.features.arrays import one_array
from jobs.features.columns import Column
from jobs.features.split import TrainRows
from jobs.features.step import Step
from jobs.features.transform import Transform
from jobs.features.vocabulary import UNKNOWN, Vocabulary
from jobs.workloads.chain import Batch
from jobs.workloads.dropout import RowDropout
from jobs.workloads.partition import Partition
from jobs.workloads.ranker import Query, Ranker
from jobs.workloads.ranking import USERS_AT_ONCE, K, ranking_metrics, rmse, top_items
from jobs.workloads.rated_items import RatedItems

NUM_GOLDEN_USERS = 16

metrics: Sequence[str] = ("ndcg_at_10", "hit_rate_at_10", "rmse")
lower_is_better = frozenset({"rmse"})
apart: None = None
"""Scores of drawn items are no shares of anything."""
time: str | None = "timestamp"
ties: tuple[str, ...] = ("user_id", "item_id")
unfolds_by: tuple[str, ...] = ()


class RecommenderSpec(Spec):
    """The recommender's model and what it counts as wanted."""

    kind: Literal["recommender"] = "recommender"
    embedding_dim: int = Field(32, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    """On the embeddings that the rating head sees, in training."""
    num_negatives: int = Field(1024, ge=1)
    """Items drawn a step that the wanted one is compared with."""
    ranking_weight: float = Field(1.0, ge=0)
    """Of the ranking loss beside the rating loss."""
    relevant_from: float = 4.0
    """A rating from here on means that the user wanted the item."""
    min_rating: float = 0.5
    max_rating: float = 5.0

    @model_validator(mode="after")
    def _can_be_wanted(self) -> "RecommenderSpec":
        if not self.min_rating < self.max_rating or self.relevant_from > self.max_rating:
            raise ValueError(
                f"min_rating={self.min_rating:g} must be below max_rating={self.max_rating:g}, "
                f"and relevant_from={self.relevant_from:g} not above it"
            )
        return self


def event_columns(spec: RecommenderSpec) -> tuple[Column, ...]:
    """A rating: who, what, how much, when."""
    return (
        Column("user_id", "id"),
        Column("item_id", "id"),
        Column("rating", "number", low=spec.min_rating, high=spec.max_rating),
        Column("timestamp", "time"),
    )


def item_columns(spec: RecommenderSpec) -> tuple[Column, ...]:
    """An item of the catalogue."""
    return (
        Column("item_id", "id"),
        Column("title", "text", required=False),
        Column("genres", "labels", required=False),
    )


def unfold(spec: RecommenderSpec, events: pa.Table) -> pa.Table:
    """A rating is a training row."""
    return events


def steps(spec: RecommenderSpec) -> tuple[Step, ...]:
    """Users and items of the training rows get an index each."""
    return Vocabulary(column="user_id", output="user"), Vocabulary(column="item_id", output="item")


def lookups(transform: Transform, items: pa.Table, train: Callable[[], TrainRows]) -> dict[str, pa.Table]:
    """`items`: id, title and genres by item index, from 1 on; `history`: user, item, rating of the training rows."""
    known = pa.table({"item_id": _vocabulary(transform, "item").values})
    found = pc.index_in(known.column("item_id"), one_array(items.column("item_id")))
    catalogue = known
    for name in ("title", "genres"):
        catalogue = catalogue.append_column(name, one_array(items.column(name)).take(found))
    history = train().table.select(["user", "item", "rating"]).sort_by([("user", "ascending"), ("item", "ascending")])
    return {"items": catalogue, "history": history, "genres": _genres(catalogue)}


class Recommender(nn.Module):
    """User, item and genre embeddings with a rating head and a ranking head."""

    item_genres: Tensor

    def __init__(
        self, num_users: int, item_genres: Tensor, embedding_dim: int, dropout: float, mean_rating: float
    ) -> None:
        """Args:
        num_users: user indices, the unknown one included.
        item_genres: each item's weight of each genre, rows sum to 1 or 0 [items, genres], float32.
        mean_rating: where rating predictions start from.
        """
        super().__init__()
        num_items, num_genres = item_genres.shape
        self.register_buffer("item_genres", item_genres, persistent=False)
        self.users = nn.Embedding(num_users, embedding_dim, padding_idx=UNKNOWN)
        self.items = nn.Embedding(num_items, embedding_dim, padding_idx=UNKNOWN)
        self.genres = nn.Parameter(torch.empty(num_genres, embedding_dim))
        self.user_bias = nn.Embedding(num_users, 1, padding_idx=UNKNOWN)
        self.item_bias = nn.Embedding(num_items, 1, padding_idx=UNKNOWN)
        self.popularity = nn.Embedding(num_items, 1, padding_idx=UNKNOWN)
        self.to_rating = nn.Linear(embedding_dim, embedding_dim, bias=False)
        self.mean_rating = nn.Parameter(torch.tensor([mean_rating]))  # FSDP shards no scalar
        self.user_dropout, self.item_dropout = RowDropout(dropout, salt=1), RowDropout(dropout, salt=2)
        self._initialise()

    def _initialise(self) -> None:
        for weight in (self.users.weight, self.items.weight, self.genres):
            nn.init.normal_(weight, std=0.05)
        for bias in (self.user_bias, self.item_bias, self.popularity):
            nn.init.zeros_(bias.weight)
        with torch.no_grad():
            self.to_rating.weight.copy_(0.1 * torch.eye(self.to_rating.in_features))
            self.users.weight[UNKNOWN] = 0
            self.items.weight[UNKNOWN] = 0

    def forward(self, batch: Batch) -> Batch:
        """Args:
            batch: `user`, `item`, `key` [rows] and `negatives` [negatives], all int64.

        Returns:
            `rating` [rows], and `ranking`: the logit of the row's item, then of the negatives [rows, 1 + negatives];
            a negative that is the row's own item is -inf.
        """
        user, item, negatives, key = batch["user"], batch["item"], batch["negatives"], batch["key"]
        user_vectors, item_vectors = self.users(user), self.item_vectors(item)
        rating = self._rating(self.user_dropout(user_vectors, key), self.item_dropout(item_vectors, key), user, item)
        wanted = (user_vectors * item_vectors).sum(-1) + self.popularity(item).squeeze(-1)
        others = self.item_vectors(negatives)
        compared = user_vectors @ others.T + self.popularity(negatives).squeeze(-1)
        compared = compared.masked_fill(negatives[None, :] == item[:, None], -torch.inf)
        return {"rating": rating, "ranking": torch.cat([wanted[:, None], compared], dim=1)}

    def ratings(self, user: Tensor, item: Tensor) -> Tensor:
        """Predicted ratings of pairs [rows]."""
        return self._rating(self.users(user), self.item_vectors(item), user, item)

    def scores(self, user: Tensor, catalogue: Tensor | None = None) -> Tensor:
        """How much each user wants each item, comparable within a user [users, items].

        Args:
            catalogue: what `catalogue` returns, where that is at hand.
        """
        of_items = self.catalogue() if catalogue is None else catalogue
        return torch.addmm(self.popularity.weight.squeeze(-1), self.users(user), of_items.T)

    def catalogue(self) -> Tensor:
        """The vectors of all items [items, embedding_dim]."""
        return self.items.weight + self.item_genres @ self.genres

    def item_vectors(self, item: Tensor) -> Tensor:
        """An item's own embedding and the mean of its genres' [rows, embedding_dim]."""
        vectors: Tensor = self.items(item) + self.item_genres[item] @ self.genres
        return vectors

    def _rating(self, user_vectors: Tensor, item_vectors: Tensor, user: Tensor, item: Tensor) -> Tensor:
        taste: Tensor = (self.to_rating(user_vectors) * item_vectors).sum(-1)
        bias: Tensor = self.user_bias(user).squeeze(-1) + self.item_bias(item).squeeze(-1)
        return self.mean_rating + bias + taste


def trains_on(spec: RecommenderSpec) -> None:
    """All columns."""


def partition(spec: RecommenderSpec) -> Partition:
    """Replicas and shards of the whole model; it has no layers to cut or to split."""
    return Partition(
        units=("",),
        refused={
            "tensor": "its weights are embeddings that are looked up, not matrices that are multiplied",
            "pipeline": "it is one layer deep, there is nothing to cut",
            "context": "its rows are no sequences",
        },
    )


def build(spec: RecommenderSpec, transform: Transform) -> Recommender:
    """The untrained model of these fitted features."""
    users = _vocabulary(transform, "user")
    mean = pc.mean(transform.lookups["history"].column("rating")).as_py()
    return Recommender(users.size, _item_genres(transform), spec.embedding_dim, spec.dropout, float(mean))


def tensors(rows: pa.Table) -> Batch:
    """`user`, `item` int64 and `rating` float32, each [rows]."""
    return {
        "user": torch.from_numpy(rows.column("user").to_numpy().astype(np.int64)),
        "item": torch.from_numpy(rows.column("item").to_numpy().astype(np.int64)),
        "rating": torch.from_numpy(rows.column("rating").to_numpy().astype(np.float32)),
    }


def augment(spec: RecommenderSpec, batch: Batch, other: Callable[[], Batch]) -> Batch:
    """Ratings stay as they are."""
    return batch


def draw(spec: RecommenderSpec, transform: Transform, generator: Generator) -> Batch:
    """`negatives`: known items, drawn evenly."""
    size = _vocabulary(transform, "item").size
    return {"negatives": torch.randint(1, size, (spec.num_negatives,), generator=generator)}


def loss(spec: RecommenderSpec, outputs: Batch, batch: Batch) -> Tensor:
    """Squared error of the rating plus, of a wanted item, the weighted softmax loss [rows]."""
    rating_loss = F.mse_loss(outputs["rating"], batch["rating"], reduction="none")
    first = torch.zeros_like(batch["item"])
    ranking_loss = F.cross_entropy(outputs["ranking"], first, reduction="none")
    wanted = (batch["rating"] >= spec.relevant_from) & (batch["item"] != UNKNOWN)
    return rating_loss + spec.ranking_weight * ranking_loss * wanted


@torch.no_grad()
def evaluate(spec: RecommenderSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> dict[str, float]:
    """RMSE over all rows; NDCG@10 and hit rate@10 over the users with a wanted row, items of their history left out."""
    assert isinstance(model, Recommender)
    users, relevant = wanted_items(spec, rows)
    scores = partial(model.scores, catalogue=model.catalogue())
    ndcg, hit_rate = ranking_metrics(_top_unseen(transform, users, scores), relevant)
    batch = tensors(rows)
    error = rmse(model.ratings(batch["user"], batch["item"]), batch["rating"])
    return {"ndcg_at_10": ndcg, "hit_rate_at_10": hit_rate, "rmse": error}


def baselines(
    spec: RecommenderSpec, transform: Transform, train: TrainRows, rows: pa.Table
) -> dict[str, dict[str, float]]:
    """`popularity` ranks every item by how many users wanted it; `mean_rating` predicts the training mean."""
    wanted = train.table.filter(pc.greater_equal(train.table.column("rating"), spec.relevant_from))
    counts = np.bincount(wanted.column("item").to_numpy(), minlength=_vocabulary(transform, "item").size)
    users, relevant = wanted_items(spec, rows)
    popularity = torch.from_numpy(counts.astype(np.float32))
    top = _top_unseen(transform, users, lambda group: popularity.repeat(len(group), 1))
    ndcg, hit_rate = ranking_metrics(top, relevant)
    actual = tensors(rows)["rating"]
    mean = torch.full_like(actual, float(pc.mean(train.table.column("rating")).as_py()))
    return {"popularity": {"ndcg_at_10": ndcg, "hit_rate_at_10": hit_rate}, "mean_rating": {"rmse": rmse(mean, actual)}}


def golden(spec: RecommenderSpec, model: nn.Module, transform: Transform, rows: pa.Table) -> pa.Table:
    """Users, one of them unknown, with the items and scores they are answered: `user_id`, `item_ids`, `scores`."""
    assert isinstance(model, Recommender)
    user_ids = [*pc.unique(rows.column("user_id")).to_pylist()[:NUM_GOLDEN_USERS], "\x00 nobody"]
    answers = Ranker(model, transform).best([Query(user_id) for user_id in user_ids])
    item_ids = transform.lookups["items"].column("item_id")
    return pa.table(
        {
            "user_id": user_ids,
            "item_ids": [[item_ids[index - 1].as_py() for index, _ in answer] for answer in answers],
            "scores": [[score for _, score in answer] for answer in answers],
        }
    )


def wanted_items(spec: RecommenderSpec, rows: pa.Table) -> tuple[list[int], list[set[int]]]:
    """The known users with wanted rows, and the items each wanted; an item that training did not show counts too,
    as one that no ranking can hold.

    Raises:
        DataError: there are none, so a ranking cannot be measured.
    """
    wanted = rows.filter(pc.greater_equal(rows.column("rating"), spec.relevant_from))
    relevant: dict[int, set[int]] = {}
    for number, (user, item) in enumerate(zip(wanted["user"].to_pylist(), wanted["item"].to_pylist(), strict=True)):
        if user != UNKNOWN:
            relevant.setdefault(user, set()).add(item if item != UNKNOWN else -1 - number)
    if not relevant:
        raise DataError(
            f"none of {rows.num_rows:,} held-out rows is a rating of workload.relevant_from={spec.relevant_from:g} or "
            "more by a user that training showed, so no ranking can be measured. Lower workload.relevant_from, give "
            "more data, or see every user in training: prepare.split.within=user_id"
        )
    users = sorted(relevant)
    return users, [relevant[user] for user in users]


def _vocabulary(transform: Transform, output: str) -> Vocabulary:
    step = transform.step(output)
    assert isinstance(step, Vocabulary)
    return step


def _genres(catalogue: pa.Table) -> pa.Table:
    labels = pc.unique(pc.list_flatten(one_array(catalogue.column("genres"))))
    return pa.table({"genre": pa.array(sorted(label for label in labels.to_pylist() if label), pa.string())})


def _item_genres(transform: Transform) -> Tensor:
    """Each item's weight of each genre, the same for all of an item's genres [items, genres]."""
    genres = {genre: column for column, genre in enumerate(transform.lookups["genres"].column("genre").to_pylist())}
    labels = transform.lookups["items"].column("genres").to_pylist()
    weights = torch.zeros(len(labels) + 1, len(genres))
    for item, names in enumerate(labels, start=1):
        known = sorted({genres[name] for name in names or () if name in genres})
        weights[item, known] = 1 / max(len(known), 1)
    return weights


def _top_unseen(transform: Transform, users: list[int], scores: Callable[[Tensor], Tensor]) -> Tensor:
    """The best items outside each user's history [users, K]; `scores` rates the catalogue for a few hundred users."""
    rated, groups = RatedItems(transform), torch.split(torch.tensor(users), USERS_AT_ONCE)
    return torch.cat([top_items(scores(group), rated.of(group), K) for group in groups])
