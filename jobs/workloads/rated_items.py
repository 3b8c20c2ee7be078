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
        return [
            torch.from_numpy(self._items[start:end].astype(np.int64)) for start, end in zip(starts, ends, strict=True)
        ]

    def ratings_of(self, user: int) -> np.ndarray:
        """What the user gave them [rated]."""
        start, end = np.searchsorted(self._users, [user, user + 1])
        found: np.ndarray = self._ratings[start:end]
        return found
