"""How many users a second are recommended to when they ask at the same time, by catalogue, beside NumPy by hand.

    OMP_NUM_THREADS=1 python -m benchmarks.recommend_together

Ten items each, the user's own history left out, of a model with made-up weights: by the batcher that the application
has, by the same ranker a user at a time, and by NumPy as one writes it (a product, the history set aside,
`argpartition`), a user at a time too; the latter two in threads. In turns, in one process, several times. Writes the
.md beside it. Needs the extra `test`.
"""

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import torch

from jobs.features.split import SPLIT, TrainRows
from jobs.features.transform import Transform
from jobs.workloads import recommender
from jobs.workloads.ranker import Query, Ranker
from jobs.workloads.ranking import K
from jobs.workloads.recommender import Recommender, RecommenderSpec
from serving.batcher import Batcher

CATALOGUES, AT_ONCE = (10_000, 100_000, 500_000), (1, 8, 32)
NUM_USERS, RATED_BY_EACH, DIM = 2_000, 50, 64
WINDOW_S, REPEATS = 2.0, 5
OURS, ALONE, BY_HAND = "batcher", "a user at a time", "NumPy by hand"
Answer = Callable[[str], Awaitable[list[tuple[int, float]]]]


def made_up(num_items: int) -> tuple[Recommender, Transform]:
    """A model with random weights for random ratings of every item."""
    draw = np.random.default_rng(0)
    num_rows = max(NUM_USERS * RATED_BY_EACH, num_items)
    rows = pa.table(
        {
            "user_id": [f"u{user}" for user in np.arange(num_rows) % NUM_USERS],
            "item_id": [f"m{item}" for item in draw.permutation(num_rows) % num_items],
            "rating": draw.integers(1, 6, num_rows).astype(np.float64),
            SPLIT: ["train"] * num_rows,
        }
    )
    spec = RecommenderSpec(embedding_dim=DIM)
    transform = Transform(recommender.steps(spec)).fit([TrainRows(rows)])
    train = TrainRows(transform.apply(rows))
    genres = [[f"g{item % 20}"] for item in range(num_items)]
    items = pa.table(
        {"item_id": [f"m{item}" for item in range(num_items)], "title": ["a film"] * num_items, "genres": genres}
    )
    transform = transform.with_lookups(recommender.lookups(transform, items, lambda: train))
    torch.manual_seed(0)
    model = recommender.build(spec, transform)
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_()
    return model.eval(), transform


def by_hand(model: Recommender, transform: Transform) -> Callable[[str], list[tuple[int, float]]]:
    """What one writes with NumPy and a dictionary."""
    vectors, popularity = model.catalogue().detach().numpy(), model.popularity.weight.detach().squeeze(1).numpy()
    users = model.users.weight.detach().numpy()
    numbers = {str(user): n for n, user in enumerate(transform.step("user").state().column("value").to_pylist(), 1)}
    history = transform.lookups["history"]
    order, items = history.column("user").to_numpy(), history.column("item").to_numpy()
    bounds = np.searchsorted(order, np.arange(len(users) + 1))

    def best(user_id: str) -> list[tuple[int, float]]:
        user = numbers.get(user_id, 0)
        scores = vectors @ users[user] + popularity
        scores[0] = -np.inf
        scores[items[bounds[user] : bounds[user + 1]]] = -np.inf
        top = np.argpartition(scores, -K)[-K:]
        return [(int(item), float(scores[item])) for item in top[np.argsort(-scores[top])]]

    return best


async def rate(answer: Answer, at_once: int) -> float:
    """Users a second, so many asking all the time."""
    num_answered, end = 0, time.perf_counter() + WINDOW_S

    async def ask(first: int) -> None:
        nonlocal num_answered
        user = first
        while time.perf_counter() < end:
            await answer(f"u{user % NUM_USERS}")
            num_answered += 1
            user += at_once

    began = time.perf_counter()
    await asyncio.gather(*(ask(first) for first in range(at_once)))
    return num_answered / (time.perf_counter() - began)


async def measured(num_items: int) -> dict[int, list[dict[str, float]]]:
    """By how many ask at once: what each contender answered a second, turn by turn."""
    model, transform = made_up(num_items)
    ranker, simple = Ranker(model, transform), by_hand(model, transform)
    batcher = Batcher(ranker.best, ranker.most_at_once)

    async def together(user_id: str) -> list[tuple[int, float]]:
        [items] = await batcher.ask([Query(user_id)])
        return items

    async def alone(user_id: str) -> list[tuple[int, float]]:
        [items] = await asyncio.to_thread(ranker.best, [Query(user_id)])
        return items

    async def with_numpy(user_id: str) -> list[tuple[int, float]]:
        return await asyncio.to_thread(simple, user_id)

    contenders: dict[str, Answer] = {OURS: together, ALONE: alone, BY_HAND: with_numpy}
    for user_id in ("u0", "u7", "a stranger"):
        answers = [[item for item, _ in await answer(user_id)] for answer in contenders.values()]
        assert answers[0] == answers[1] == answers[2], f"user {user_id} is answered {answers}"
    return {
        at_once: [{name: await rate(answer, at_once) for name, answer in contenders.items()} for _ in range(REPEATS)]
        for at_once in AT_ONCE
    }


def cell(turns: list[dict[str, float]], rival: str) -> str:
    ratios = [turn[OURS] / turn[rival] for turn in turns]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    lines = []
    for num_items in CATALOGUES:
        for at_once, turns in asyncio.run(measured(num_items)).items():
            rates = " | ".join(f"{median(turn[name] for turn in turns):,.0f}" for name in (OURS, ALONE, BY_HAND))
            lines.append(f"| {num_items:,} | {at_once} | {rates} | {cell(turns, ALONE)} | {cell(turns, BY_HAND)} |")
            print(lines[-1], flush=True)
    text = f"""# Users who ask for recommendations at the same time

Ten of so many items for each of so many users who ask at once, all the time; vectors of {DIM}, made-up weights, each
user's own ratings left out. {REPEATS} turns of {WINDOW_S:g} s each in one process; the ratio within a turn, its median
and range. All three give the same items. NumPy {np.__version__}, torch {torch.__version__}, {os.cpu_count()} CPUs,
{platform.machine()}, one thread a product. Made by `python -m benchmarks.recommend_together`.

| items | at once | {OURS}, users/s | {ALONE}, users/s | {BY_HAND}, users/s | to {ALONE} | to {BY_HAND} |
|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(lines)}
"""
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
