"""Dropout whose mask belongs to the row: the same wherever the row is trained, and after a restart."""

from torch import Tensor, nn

from jobs.workloads.row_chance import uniform


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
        kept = uniform(key, flat.shape[1], self.salt) >= self.rate
        return (flat * kept / (1 - self.rate)).reshape(values.shape)
