import math

import pytest
import torch

from jobs.workloads import classification, language
from jobs.workloads.divergence import divergence


def test_it_is_the_sum_by_hand() -> None:
    """Logits 0 and log 3 are shares of 1/4 and 3/4; halved, 1 and the square root of 3 of their sum."""
    given, wanted = torch.tensor([0.0, 0.0]), torch.tensor([0.0, math.log(3)])
    assert float(divergence(given, wanted, 1)) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    shares = [1 / (1 + 3**0.5), 3**0.5 / (1 + 3**0.5)]
    by_hand = sum(share * math.log(share / 0.5) for share in shares)
    assert float(divergence(given, wanted, 2)) == pytest.approx(4 * by_hand)


def test_the_same_answers_are_no_distance_and_no_gradient() -> None:
    torch.manual_seed(0)  # of 500 draws one comes to 1.1e-6
    logits = torch.randn(5, 7, requires_grad=True)
    found = divergence(logits, logits.detach() + 3, 2.0)
    assert found.abs().max() < 1e-6
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_gradients_are_as_large_at_a_high_temperature() -> None:
    """Hinton et al., 2015, section 2.1: at the limit the gradient is that of half the squared distance by classes."""
    given, wanted = torch.randn(10, dtype=torch.float64, requires_grad=True), torch.randn(10, dtype=torch.float64)
    divergence(given, wanted, 1000.0).backward()
    centred = (given - given.mean() - wanted + wanted.mean()).detach() / 10
    assert given.grad is not None
    torch.testing.assert_close(given.grad, centred, rtol=0.02, atol=1e-4)


def test_a_row_of_text_counts_its_targets_alike() -> None:
    outputs, wanted = torch.randn(2, 3, 9), torch.randn(2, 3, 9)
    batch = {
        "target": torch.tensor([[1, 2, language.IGNORED], [3, 4, 5]]),
        "num_targets": torch.tensor([2.0, 3.0]),
    }
    each = divergence(outputs, wanted, 2.0)
    by_hand = torch.stack([each[0, :2].mean(), each[1].mean()])
    torch.testing.assert_close(language.apart(outputs, wanted, batch, 2.0), by_hand)


def test_rows_of_a_table_count_alike() -> None:
    outputs, wanted = torch.randn(4, 3), torch.randn(4, 3)
    found = classification.apart(outputs, wanted, {"class_weight": torch.tensor([1.0, 9, 9, 9])}, 1.5)
    torch.testing.assert_close(found, divergence(outputs, wanted, 1.5))
