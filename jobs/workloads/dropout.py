"""Dropout whose mask belongs to the row: the same wherever the row is trained, and after a restart."""

import torch
from torch import Tensor, nn

MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9 as int64; both from SplitMix64 (Steele, Lea and Flood, 2014)
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


class RowDropout(nn.Module):
    """Zero each element with probability `rate` in training and scale the rest, by a hash of the row's key."""

    def __init__(self, rate: float, salt: int) -> None:
        """`salt` tells the dropouts of one model apart."""
        super().__init__()
        self.rate, self.salt = rate, salt

    def forward(self, values: Tensor, key: Tensor) -> Tensor:
        """Args:
        values: [rows, ...], float.
        key: a number of each row's own in this step [rows], int64.
        """
        if not self.training or self.rate == 0:
            return values
        flat = values.unsqueeze(1).flatten(1)
        place = torch.arange(flat.shape[1], device=key.device) + (self.salt << 32)
        kept = _uniform(_mixed(key)[:, None] ^ place) >= self.rate
        return (flat * kept / (1 - self.rate)).reshape(values.shape)


def _uniform(bits: Tensor) -> Tensor:
    """Numbers in [0, 1) of the top bits of their hash."""
    return (_mixed(bits) >> 40 & 0xFFFFFF).to(torch.float32) / 2**24


def _mixed(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser; int64 wraps round as its uint64 does."""
    bits = (bits ^ _shifted(bits, 30)) * MIX_1
    bits = (bits ^ _shifted(bits, 27)) * MIX_2
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A logical shift to the right: the sign bit does not follow."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
