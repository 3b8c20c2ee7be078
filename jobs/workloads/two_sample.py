"""Two-sample tests: how well two sets of vectors can be told apart, such as images that were made from those that
were taken."""

import torch
from torch import Tensor


def nearest_neighbour_accuracy(one: Tensor, other: Tensor) -> float:
    """How often the nearest of all other vectors says which set a vector is of (Lopez-Paz and Oquab, 2017).

    The leave-one-out accuracy of the 1-nearest-neighbour classifier, or that of answering the opposite where it is
    higher: 0.5 where the sets are alike, 1 where each keeps to itself, or where each vector is a copy of one of the
    other set.

    Args:
        one, other: [rows, entries], as many rows of each.
    """
    pooled = torch.cat([one, other]).double()
    is_other = torch.arange(len(pooled)) >= len(one)
    nearest = torch.cdist(pooled, pooled).fill_diagonal_(torch.inf).argmin(1)
    accuracy = float((is_other[nearest] == is_other).double().mean())
    return max(accuracy, 1 - accuracy)


def squared_mmd(one: Tensor, other: Tensor) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy (Gretton et al., 2012, equation 3).

    With the Gaussian kernel as wide as the median distance within `other`, so that whatever is compared with it is
    measured alike. 0 where the sets are of one distribution, and by chance a little less.

    Args:
        one, other: [rows, entries].
    """
    one, other = one.double(), other.double()
    within = torch.pdist(other).median()

    def kernel(left: Tensor, right: Tensor) -> Tensor:
        return (-torch.cdist(left, right).square() / (2 * within.square())).exp()

    def mean_of_pairs(values: Tensor) -> Tensor:
        return (values.sum() - values.diagonal().sum()) / (len(values) * (len(values) - 1))

    alike = mean_of_pairs(kernel(one, one)) + mean_of_pairs(kernel(other, other))
    return float(alike - 2 * kernel(one, other).mean())
