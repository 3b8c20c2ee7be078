"""Which rows make up a global batch: a pure function of seed, epoch, number of rows, batch size and step.

Never of the layout, the number of workers or timing: so a run can go on elsewhere at exactly the next sample.

Rows are shuffled in two levels, so that they can be streamed: pages of neighbouring rows in random order, then the
rows of the pages that make up a window. An epoch that fits into one window is shuffled uniformly.
"""

import zlib
from functools import cached_property

import numpy as np
import torch

PAGE_ROWS = 4096
"""Neighbouring rows that are read together, at most."""
PAGES_A_WINDOW = 16
"""At least, so that a window mixes rows from all over."""


def steps_in_epoch(num_rows: int, batch_size: int) -> int:
    """Global batches an epoch; the last one may be smaller."""
    return -(-num_rows // batch_size)


class EpochOrder:
    """The order in which an epoch visits its rows, every one once; window by window, so it need not be held whole."""

    def __init__(self, seed: int, epoch: int, num_rows: int, shuffle_rows: int) -> None:
        """`shuffle_rows` is how many rows are shuffled together: the longest window."""
        self._seed, self._epoch, self._num_rows = seed, epoch, num_rows
        self._page_rows = max(1, min(PAGE_ROWS, shuffle_rows // PAGES_A_WINDOW))
        num_pages = -(-num_rows // self._page_rows)
        self._pages_a_window = num_pages if num_rows <= shuffle_rows else shuffle_rows // self._page_rows
        self._pages = _generator(seed, epoch, "pages").permutation(num_pages)

    @cached_property
    def starts(self) -> np.ndarray:
        """The place in the epoch at which each window starts, and the epoch's length [windows + 1], int64."""
        lengths = np.minimum((self._pages + 1) * self._page_rows, self._num_rows) - self._pages * self._page_rows
        firsts = np.arange(0, len(lengths), self._pages_a_window)
        return np.concatenate([[0], np.cumsum(np.add.reduceat(lengths, firsts))])

    @property
    def num_windows(self) -> int:
        """How many windows the epoch has."""
        return len(self.starts) - 1

    def window_at(self, place: int) -> int:
        """The window that holds the row at this place of the epoch."""
        return int(np.searchsorted(self.starts, place, side="right")) - 1

    def window(self, number: int) -> np.ndarray:
        """The rows of a window in the order of their visit [rows of the window], int64."""
        pages = self._pages[number * self._pages_a_window : (number + 1) * self._pages_a_window]
        rows = (np.sort(pages)[:, None] * self._page_rows + np.arange(self._page_rows)).reshape(-1)
        return _generator(self._seed, self._epoch, f"window {number}").permutation(rows[rows < self._num_rows])


def _generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """Of one order: a stream of its own, which a bare number beside seed and epoch does not always give."""
    return np.random.default_rng([seed, epoch, zlib.crc32(purpose.encode())])


def replica_rows(num_rows: int, replica: int, num_replicas: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of a global batch of `num_rows` that one model replica takes: disjoint, together the whole.

    Every part has `batch_size / num_replicas` rows, which the layout's check sees divide. The last batch of an epoch
    may be too small for that: rows of weight 0 stand in for what is missing, so that shapes never change.

    Returns:
        The places in the batch [rows of the part], int64, and their weights, 1 or 0 [rows of the part], float32.
    """
    places = np.arange(replica, batch_size, num_replicas)
    is_there = places < num_rows
    return np.where(is_there, places, 0), is_there.astype(np.float32)


def row_keys(seed: int, step: int, places: np.ndarray) -> np.ndarray:
    """A number of each row's own in a step, by its place in the global batch [rows], int64."""
    entropy = np.random.SeedSequence([seed, step, zlib.crc32(b"key")])
    keys: np.ndarray = entropy.generate_state(1, np.uint64).view(np.int64) ^ places
    return keys


def other_places(seed: int, step: int, num_rows: int) -> np.ndarray:
    """For each place of a global batch the place of another row, or now and then its own: every row goes to one
    [rows], int64."""
    return _generator(seed, step, "other").permutation(num_rows)


def step_generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """A generator of what a step draws by chance; the same on every rank, and after a restart."""
    entropy = np.random.SeedSequence([seed, step, zlib.crc32(purpose.encode())])
    return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))
