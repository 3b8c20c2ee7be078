"""Chance that belongs to a row: the same wherever the row is trained, and after a restart.

Every number is a hash of the row's key, which tells it from all other rows of a run, and of its place among the numbers
that are drawn for the row.
"""

import math

import torch
from torch import Tensor

MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9 as int64; both from SplitMix64 (Steele, Lea and Flood, 2014)
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
AUGMENT_SALT = 1 << 20
"""Salts from here on are of augmentation, those below of the dropouts of a model."""


def uniform(key: Tensor, num: int, salt: int) -> Tensor:
    """Numbers in [0, 1) for each row [rows, num], float32.

    Args:
        key: a number of each row's own in this step [rows], int64.
        salt: tells what is drawn for one purpose from what is drawn for another.
    """
    place = torch.arange(num, device=key.device) + (salt << 32)
    bits = _mixed(_mixed(key)[:, None] ^ place)
    return (bits >> 40 & 0xFFFFFF).to(torch.float32) / 2**24


def normal(key: Tensor, num: int, salt: int) -> Tensor:
    """Numbers of the standard normal distribution for each row [rows, num], float32 (Box and Muller, 1958)."""
    radius, turn = uniform(key, 2 * num, salt).chunk(2, dim=1)
    return (-2 * (1 - radius).log()).sqrt() * (2 * math.pi * turn).cos()


def _mixed(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser; int64 wraps round as its uint64 does."""
    bits = (bits ^ _shifted(bits, 30)) * MIX_1
    bits = (bits ^ _shifted(bits, 27)) * MIX_2
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A logical shift to the right: the sign bit does not follow."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
