"""RatedItems: what each user of the training rows rated, at hand for many look-ups."""

import numpy as np
import torch
from torch import Tensor

from jobs.features.transform import Transform


class RatedItems:
    """The items of a user and their ratings, in the order of items; none for the unknown user."""

    def __init__(self, transform: Transform) -> None:
        history = transform.lookups["history"]  # ordered by user and item
        self._users, self._items, self._ratings = (
            history.column(name).to_numpy() for name in ("user", "item", "rating")
        )

    def of(self, users: Tensor) -> list[Tensor]:
        """The indices of each user's items, int64 [rated].

        Args:
            users: their indices, int64 [users].
        """
        starts, ends = (np.searchsorted(self._users, users.numpy(), side) for side in ("left", "right"))
        return [self._indices(start, end) for start, end in zip(starts, ends, strict=True)]

    def with_ratings(self, user: int) -> tuple[Tensor, np.ndarray]:
        """The indices of the user's items, int64 [rated], and what they were given [rated]."""
        start, end = np.searchsorted(self._users, [user, user + 1])
        return self._indices(start, end), self._ratings[start:end]

    def _indices(self, start: int, end: int) -> Tensor:
        return torch.from_numpy(self._items[start:end].astype(np.int64))
