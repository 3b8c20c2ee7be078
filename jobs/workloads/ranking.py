"""How good a ranking is: NDCG and hit rate at k over the whole catalogue, and the error of predicted ratings."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

K = 10
USERS_AT_ONCE = 256
"""Ranked together at most, so that their scores of a large catalogue fit in memory."""
LARGE, BLOCK = 2**15, 128
"""From so many items on the best are looked for in blocks of so many."""


def ranking_metrics(top: Tensor, relevant: list[set[int]]) -> tuple[float, float]:
    """NDCG@k and hit rate@k, each the mean over users.

    Binary relevance with the log2 discount of Järvelin and Kekäläinen (2002); a user's ideal ranking has all
    relevant items first, at most k of them. Candidates are all items, never a sample (Krichene and Rendle, 2020).

    Args:
        top: the best k items of each user, best first, 0 for none [users, k], int64.
        relevant: the items each user is known to want, none of them empty; an item outside the catalogue counts.
    """
    k = top.shape[1]
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)
    hits = np.array([[item in wanted for item in items] for items, wanted in zip(top.tolist(), relevant, strict=True)])
    gains = (hits * discount).sum(axis=1)
    best = np.array([ideal[min(len(wanted), k) - 1] for wanted in relevant])
    return float((gains / best).mean()), float(hits.any(axis=1).mean())


def rmse(predicted: Tensor, actual: Tensor) -> float:
    """Root of the mean squared difference of two [rows]."""
    return float((predicted.double() - actual.double()).square().mean().sqrt())


def top_items(scores: Tensor, seen: list[Tensor], k: int) -> Tensor:
    """The best k items of each user that it has not seen [users, k]; 0, the unknown item, where none is left.

    Args:
        scores: [users, items], float32; changed in place.
        seen: for each user the indices of items to leave out, int64.
    """
    scores[:, 0] = -torch.inf
    for row, items in enumerate(seen):
        scores[row, items.to(scores.device)] = -torch.inf
    indices = _largest(scores, min(k, scores.shape[1]))
    found = indices.masked_fill(scores.gather(1, indices) == -torch.inf, 0)
    return F.pad(found, (0, k - found.shape[1]))


def _largest(scores: Tensor, k: int) -> Tensor:
    """The places of the k largest in each row, the largest first [rows, k].

    In many the k largest lie in those k blocks that have the largest maxima, or in what is left over behind the blocks:
    `topk` alone takes several times as long, for it moves pairs of all values and places.
    """
    num_blocks = scores.shape[1] // BLOCK
    if scores.shape[1] < LARGE or num_blocks < 2 * k:
        return scores.topk(k, dim=1).indices
    in_blocks = num_blocks * BLOCK
    best_blocks = scores[:, :in_blocks].unflatten(1, (num_blocks, BLOCK)).amax(2).topk(k, dim=1).indices
    inside = best_blocks[:, :, None] * BLOCK + torch.arange(BLOCK, device=scores.device)
    behind = torch.arange(in_blocks, scores.shape[1], device=scores.device).expand(len(scores), -1)
    candidates = torch.cat([inside.flatten(1), behind], dim=1)
    return candidates.gather(1, scores.gather(1, candidates).topk(k, dim=1).indices)
