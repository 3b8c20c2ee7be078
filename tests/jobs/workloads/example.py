"""Prepared ratings for the tests, and the metrics of the recommender written a second time, on their own."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs.features.columns import check_rows, rename
from jobs.features.split import SplitSpec, TrainRows, split_by_time
from jobs.features.transform import Transform
from jobs.workloads import recommender
from jobs.workloads.recommender import RecommenderSpec

GENRES = ("Comedy", "Drama", "War")


@dataclass(frozen=True)
class Prepared:
    """What prepare would hand on."""

    transform: Transform
    train: TrainRows
    valid: pa.Table
    test: pa.Table


def prepare(ratings: pa.Table, films: pa.Table, spec: RecommenderSpec, within: str | None = "user_id") -> Prepared:
    """Check, split, fit and transform, all in one process."""
    names = {"user_id": "userId", "item_id": "movieId"}
    events = check_rows(ratings, rename(recommender.event_columns(spec), names)).drop_columns(["reason"])
    items = check_rows(films, rename(recommender.item_columns(spec), {"item_id": "movieId"}))
    rows = split_by_time(events, SplitSpec(within=within), recommender.time, recommender.ties)
    unfitted = Transform(recommender.steps(spec))
    transform = unfitted.fit([TrainRows.of(rows)])
    rows = transform.apply(rows)
    train = TrainRows.of(rows)
    valid, test = (rows.filter(pc.equal(rows.column("split"), name)) for name in ("valid", "test"))
    return Prepared(transform.with_lookups(recommender.lookups(transform, items, lambda: train)), train, valid, test)


def made_up(num_users: int = 40, num_items: int = 60, num_rows: int = 800, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """Seeded ratings and films, as raw text: some films are rated late only, some lack genres or a row of their own."""
    draw = np.random.default_rng(seed)
    pairs = draw.permutation(num_users * num_items)[:num_rows]
    items = pairs % num_items
    late = np.where(items % 10 == 9, 500_000, 0)
    ratings = pa.table(
        {
            "userId": [f"u{pair // num_items}" for pair in pairs],
            "movieId": [f"m{item}" for item in items],
            "rating": [str(stars / 2) for stars in draw.integers(1, 11, num_rows)],
            "timestamp": [str(moment) for moment in draw.integers(0, 10_000, num_rows) + late],
        }
    )
    listed = range(num_items - 2)
    genres = ["|".join(draw.permutation(GENRES)[: item % 4]) for item in listed]
    films = pa.table(
        {"movieId": [f"m{item}" for item in listed], "title": [f"Film {item}" for item in listed], "genres": genres}
    )
    return ratings, films


def naive_ranking(
    scores: np.ndarray, rows: pa.Table, train: pa.Table, relevant_from: float, k: int = 10
) -> tuple[float, float]:
    """NDCG@k and hit rate@k by sorting each user's whole catalogue in plain Python.

    Args:
        scores: [users, items], by index.
        rows: transformed held-out rows; an item of index 0 was never in training, so no ranking can hold it.
    """
    seen: dict[int, set[int]] = {}
    for row in train.to_pylist():
        seen.setdefault(row["user"], set()).add(row["item"])
    wanted: dict[int, list[int]] = {}
    for row in rows.to_pylist():
        if row["rating"] >= relevant_from and row["user"] != 0:
            wanted.setdefault(row["user"], []).append(row["item"])
    ndcg, hits = [], []
    for user, items in wanted.items():
        candidates = [item for item in range(1, scores.shape[1]) if item not in seen[user]]
        best = sorted(candidates, key=lambda item: -scores[user, item])[:k]
        gain = sum(1 / math.log2(place + 2) for place, item in enumerate(best) if item in items)
        ndcg.append(gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(items)))))
        hits.append(any(item in items for item in best))
    return sum(ndcg) / len(ndcg), sum(hits) / len(hits)


def all_scores(model: torch.nn.Module, transform: Transform) -> np.ndarray:
    """The model's scores of every user for every item [users, items]."""
    assert isinstance(model, recommender.Recommender)
    with torch.no_grad():
        return model.scores(torch.arange(model.users.num_embeddings)).numpy()


def popularity_of(train: pa.Table, num_items: int, relevant_from: float) -> np.ndarray:
    """How many users wanted each item in training [items]."""
    counts = np.zeros(num_items)
    for row in train.to_pylist():
        counts[row["item"]] += row["rating"] >= relevant_from
    return counts
