"""Which rows make up a global batch: a pure function of seed, epoch, number of rows, batch size and step.

Never of the layout, the number of workers or timing: so a run can go on elsewhere at exactly the next sample.
"""

import zlib

import numpy as np
import torch


def steps_in_epoch(num_rows: int, batch_size: int) -> int:
    """Global batches an epoch; the last one may be smaller."""
    return -(-num_rows // batch_size)


def epoch_order(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    """The order in which an epoch visits the rows [num_rows], int64: every row once."""
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def batch_rows(order: np.ndarray, batch_size: int, step: int) -> np.ndarray:
    """The rows of the global batch `step` of an epoch [rows of the batch]."""
    return order[step * batch_size : (step + 1) * batch_size]


def replica_rows(batch: np.ndarray, replica: int, num_replicas: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of a global batch that one model replica takes: disjoint, together the whole.

    Every part has `batch_size / num_replicas` rows, which the layout's check sees divide. The last batch of an epoch
    may be too small for that: rows of weight 0 stand in for what is missing, so that shapes never change.

    Returns:
        The places in the batch [rows of the part], int64, and their weights, 1 or 0 [rows of the part], float32.
    """
    places = np.arange(replica, batch_size, num_replicas)
    is_there = places < len(batch)
    return np.where(is_there, places, 0), is_there.astype(np.float32)


def row_keys(seed: int, step: int, places: np.ndarray) -> np.ndarray:
    """A number of each row's own in a step, by its place in the global batch [rows], int64."""
    entropy = np.random.SeedSequence([seed, step, zlib.crc32(b"key")])
    keys: np.ndarray = entropy.generate_state(1, np.uint64).view(np.int64) ^ places
    return keys


def step_generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """A generator of what a step draws by chance; the same on every rank, and after a restart."""
    entropy = np.random.SeedSequence([seed, step, zlib.crc32(purpose.encode())])
    return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))
