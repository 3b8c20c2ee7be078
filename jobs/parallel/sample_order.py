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


def replica_rows(batch: np.ndarray, replica: int, num_replicas: int) -> np.ndarray:
    """The part of a global batch that one model replica takes: disjoint, together the whole.

    The parts of a batch that does not divide differ by one row, and may be empty.
    """
    return batch[replica::num_replicas]


def step_generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """A generator of what a step draws by chance; the same on every rank, and after a restart."""
    entropy = np.random.SeedSequence([seed, step, zlib.crc32(purpose.encode())])
    return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))
