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
NUMBERS_AT_ONCE = 1 << 15
"""Drawn together, so that what lies between them and their hashes stays in the CPU's cache."""


def uniform(key: Tensor, num: int, salt: int) -> Tensor:
    """Numbers in [0, 1) for each row [rows, num], float32.

    Args:
        key: a number of each row's own in this step [rows], int64.
        salt: tells what is drawn for one purpose from what is drawn for another.
    """
    return _fraction(_bits(key, num, salt) >> 40)


def normal(key: Tensor, num: int, salt: int) -> Tensor:
    """Numbers of the standard normal distribution for each row [rows, num], float32 (Box and Muller, 1958)."""
    found = torch.empty(len(key), num)
    rows_at_once = max(NUMBERS_AT_ONCE // max(num, 1), 1)
    for keys, numbers in zip(key.split(rows_at_once), found.split(rows_at_once), strict=True):
        bits = _bits(keys, -(-num // 2), salt)  # two numbers of each hash
        radius = (-2 * (1 - _fraction(bits >> 40)).log()).sqrt()
        turn = 2 * math.pi * _fraction(bits >> 16)
        numbers.copy_(torch.cat([radius * turn.cos(), radius * turn.sin()], dim=1)[:, :num])
    return found


def _bits(key: Tensor, num: int, salt: int) -> Tensor:
    """A hash for each number of each row [rows, num], int64."""
    place = torch.arange(num, device=key.device) + (salt << 32)
    return _mixed(_mixed(key)[:, None] ^ place)


def _fraction(bits: Tensor) -> Tensor:
    """Numbers in [0, 1) of the lowest 24 bits, float32."""
    return (bits & 0xFFFFFF).to(torch.float32) / 2**24


def _mixed(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser; int64 wraps round as its uint64 does."""
    bits = (bits ^ _shifted(bits, 30)) * MIX_1
    bits = (bits ^ _shifted(bits, 27)) * MIX_2
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A logical shift to the right: the sign bit does not follow."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
