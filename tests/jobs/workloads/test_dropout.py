import math

import pytest
import torch
from torch import Tensor

from jobs.workloads.dropout import RowDropout

NUM_ROWS, NUM_COLUMNS = 2000, 200


def kept(rate: float, salt: int, key: Tensor, num_columns: int = NUM_COLUMNS) -> Tensor:
    """Which elements stay [rows, columns], bool."""
    dropped: Tensor = RowDropout(rate, salt).train()(torch.ones(len(key), num_columns), key)
    return dropped != 0


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_is_the_rate(rate: float) -> None:
    share = 1 - kept(rate, 1, torch.arange(NUM_ROWS)).double().mean().item()
    standard_error = math.sqrt(rate * (1 - rate) / (NUM_ROWS * NUM_COLUMNS))
    assert abs(share - rate) < 4 * standard_error


def test_every_row_and_every_column_keeps_the_rate() -> None:
    mask = kept(0.5, 1, torch.arange(NUM_ROWS)).double()
    for dim, count in ((0, NUM_ROWS), (1, NUM_COLUMNS)):
        deviations = (mask.mean(dim) - 0.5) / math.sqrt(0.25 / count)
        assert deviations.abs().max() < 5
        assert deviations.std().item() == pytest.approx(1, abs=0.2)  # as often off as chance would have it


def test_what_stays_is_scaled_so_that_the_mean_stays() -> None:
    values = torch.randn(NUM_ROWS, NUM_COLUMNS, generator=torch.Generator().manual_seed(0))
    dropped = RowDropout(0.3, 1).train()(values, torch.arange(NUM_ROWS))
    where = dropped != 0
    torch.testing.assert_close(dropped[where], values[where] / 0.7)


def test_a_row_has_the_same_mask_wherever_it_stands_in_whatever_batch() -> None:
    key = torch.tensor([11, -5, 2**62, 7])
    whole = kept(0.5, 3, key)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(kept(0.5, 3, key[order]), whole[order])
    assert torch.equal(kept(0.5, 3, key[1:2]), whole[1:2])
    assert len(set(map(tuple, whole.tolist()))) == 4


@pytest.mark.parametrize("distance", [1, 2, 1 << 32])
def test_masks_of_rows_with_near_keys_are_unrelated(distance: int) -> None:
    key = torch.arange(NUM_ROWS)
    bound = 4 / math.sqrt(NUM_ROWS * NUM_COLUMNS)
    assert abs(correlation(kept(0.5, 1, key), kept(0.5, 1, key + distance))) < bound


def test_masks_of_two_salts_are_unrelated() -> None:
    key = torch.arange(NUM_ROWS)
    assert abs(correlation(kept(0.5, 1, key), kept(0.5, 2, key))) < 4 / math.sqrt(NUM_ROWS * NUM_COLUMNS)


def test_columns_are_unrelated() -> None:
    correlations = torch.corrcoef(kept(0.5, 1, torch.arange(NUM_ROWS)).double().T)
    off_diagonal = correlations[~torch.eye(NUM_COLUMNS, dtype=torch.bool)] * math.sqrt(NUM_ROWS)
    assert off_diagonal.abs().max() < 5.5  # of 19,900 pairs
    assert off_diagonal.std().item() == pytest.approx(1, abs=0.05)


def test_chance_elsewhere_changes_nothing() -> None:
    torch.manual_seed(0)
    first = kept(0.5, 1, torch.arange(5))
    torch.manual_seed(1)
    assert torch.equal(kept(0.5, 1, torch.arange(5)), first)


def test_evaluation_and_a_rate_of_zero_pass_values_through() -> None:
    values, key = torch.randn(4, 3), torch.arange(4)
    assert torch.equal(RowDropout(0.5, 1).eval()(values, key), values)
    assert torch.equal(RowDropout(0.0, 1).train()(values, key), values)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 5), (0, 4)])
def test_shape_and_dtype_stay(shape: tuple[int, ...]) -> None:
    values = torch.ones(shape, dtype=torch.bfloat16)
    dropped = RowDropout(0.5, 1).train()(values, torch.arange(shape[0]))
    assert (dropped.shape, dropped.dtype) == (values.shape, values.dtype)


def test_gradients_are_masked_like_the_values() -> None:
    values = torch.ones(3, 50, requires_grad=True)
    dropped = RowDropout(0.5, 1).train()(values, torch.arange(3))
    dropped.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, dropped.detach())
