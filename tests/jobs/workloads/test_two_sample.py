import math

import pytest
import torch
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from jobs.workloads.two_sample import nearest_neighbour_accuracy, squared_mmd


def drawn(seed: int, mean: float = 0.0, num_rows: int = 60) -> Tensor:
    return mean + torch.randn(num_rows, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mean", [0.0, 0.7, 10.0])
def test_the_accuracy_is_scikit_learns_of_one_neighbour_left_out_in_turn(mean: float) -> None:
    one, other = drawn(0), drawn(1, mean)
    rows, labels = torch.cat([one, other]).numpy(), [0] * 60 + [1] * 60
    expected = cross_val_score(KNeighborsClassifier(1), rows, labels, cv=LeaveOneOut()).mean()
    assert nearest_neighbour_accuracy(one, other) == pytest.approx(max(expected, 1 - expected))


def test_sets_of_one_distribution_cannot_be_told_apart_and_copies_can() -> None:
    assert nearest_neighbour_accuracy(drawn(0, num_rows=500), drawn(1, num_rows=500)) == pytest.approx(0.5, abs=0.06)
    assert nearest_neighbour_accuracy(drawn(0), drawn(0) + 1e-6) == 1
    assert nearest_neighbour_accuracy(drawn(0), drawn(1, 50.0)) == 1


def test_the_discrepancy_is_the_formula_summed_pair_by_pair() -> None:
    one, other = drawn(0, num_rows=8).double(), drawn(1, 0.5, num_rows=6).double()
    distances = sorted(float((other[i] - other[j]).norm()) for i in range(6) for j in range(i))
    width = distances[(len(distances) - 1) // 2]

    def kernel(x: Tensor, y: Tensor) -> float:
        return math.exp(-float((x - y).square().sum()) / (2 * width**2))

    def within(rows: Tensor) -> float:
        n = len(rows)
        return sum(kernel(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    between = sum(kernel(x, y) for x in one for y in other) / 48
    assert squared_mmd(one, other) == pytest.approx(within(one) + within(other) - 2 * between)


def test_the_discrepancy_is_without_bias() -> None:
    """Of one distribution it is 0 on the average, so below 0 as often as above."""
    found = [squared_mmd(drawn(seed), drawn(1000 + seed)) for seed in range(100)]
    spread = torch.tensor(found).std().item()
    assert abs(sum(found) / 100) < 3 * spread / 10
    assert min(found) < 0 < max(found)
    assert squared_mmd(drawn(0), drawn(1, 1.0)) > 10 * spread
