import subprocess
import sys

import numpy as np
import pytest
import torch

from jobs.parallel.sample_order import (
    batch_rows,
    epoch_order,
    replica_rows,
    row_keys,
    step_generator,
    steps_in_epoch,
)

SIZES = [(1, 1), (7, 3), (12, 4), (12, 5), (13, 64), (100, 1), (1000, 64)]
REPLICAS = [1, 2, 3, 8]
DRAW = """
import torch
from jobs.parallel.sample_order import epoch_order, step_generator
draws = torch.randint(9**9, (4,), generator=step_generator(5, 2, "draw"))
print(epoch_order(5, 2, 30).tolist(), draws.tolist())
"""


def batches(seed: int, epoch: int, num_rows: int, batch_size: int) -> list[np.ndarray]:
    order = epoch_order(seed, epoch, num_rows)
    return [batch_rows(order, batch_size, step) for step in range(steps_in_epoch(num_rows, batch_size))]


def drawn(seed: int, step: int, purpose: str) -> list[int]:
    draws: list[int] = torch.randint(9**9, (4,), generator=step_generator(seed, step, purpose)).tolist()
    return draws


def dealt(batch: np.ndarray, num_replicas: int, batch_size: int) -> list[np.ndarray]:
    """The rows of a batch that each replica takes, without those that only fill up."""
    parts = [replica_rows(batch, replica, num_replicas, batch_size) for replica in range(num_replicas)]
    return [batch[places[weight == 1]] for places, weight in parts]


@pytest.mark.parametrize("num_replicas", REPLICAS)
@pytest.mark.parametrize(("num_rows", "batch_size"), SIZES)
def test_an_epoch_gives_every_row_to_one_replica_once(num_rows: int, batch_size: int, num_replicas: int) -> None:
    size = batch_size * num_replicas
    given = [rows for batch in batches(3, 1, num_rows, size) for rows in dealt(batch, num_replicas, size)]
    assert sorted(np.concatenate(given)) == list(range(num_rows))


@pytest.mark.parametrize(("num_rows", "batch_size"), SIZES)
def test_a_global_batch_holds_the_same_rows_for_any_number_of_replicas(num_rows: int, batch_size: int) -> None:
    size = batch_size * 24
    for batch in batches(3, 1, num_rows, size):
        for num_replicas in REPLICAS:
            parts = dealt(batch, num_replicas, size)
            assert sorted(np.concatenate(parts)) == sorted(batch)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("num_rows", [1, 5, 7, 8])
def test_every_replica_has_as_many_rows_however_few_are_left(num_rows: int) -> None:
    batch = np.arange(100, 100 + num_rows)
    for replica in range(4):
        places, weight = replica_rows(batch, replica, 4, 8)
        assert places.shape == weight.shape == (2,)
        assert (places.dtype, weight.dtype) == (np.int64, np.float32)
        assert set(weight) <= {0, 1}
        assert all(0 <= place < num_rows for place in places)
        assert weight.sum() == sum(place % 4 == replica for place in range(num_rows))


@pytest.mark.parametrize(("num_rows", "batch_size"), SIZES)
def test_every_batch_is_full_but_the_last(num_rows: int, batch_size: int) -> None:
    sizes = [len(batch) for batch in batches(0, 0, num_rows, batch_size)]
    assert all(size == batch_size for size in sizes[:-1])
    assert 1 <= sizes[-1] <= batch_size


def test_epochs_and_seeds_each_have_an_order_of_their_own() -> None:
    orders = [tuple(epoch_order(seed, epoch, 50)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16


def test_rows_are_mixed_over_the_whole_epoch() -> None:
    first_half = epoch_order(0, 0, 10_000)[:5_000]
    assert 2_400 < (first_half < 5_000).sum() < 2_600  # 100 is four standard deviations


def test_another_process_gets_the_same_order_and_draws() -> None:
    command = [sys.executable, "-c", DRAW]
    other = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert other.strip() == f"{epoch_order(5, 2, 30).tolist()} {drawn(5, 2, 'draw')}"


@pytest.mark.parametrize("step", [0, 3, 6, 7])
def test_a_run_that_goes_on_at_a_step_sees_exactly_the_rest(step: int) -> None:
    whole = batches(1, 4, 100, 16)
    order = epoch_order(1, 4, 100)
    rest = [batch_rows(order, 16, later) for later in range(step, steps_in_epoch(100, 16))]
    assert len(rest) == len(whole) - step
    assert all(np.array_equal(again, first) for again, first in zip(rest, whole[step:], strict=True))


def test_a_step_draws_the_same_again_after_any_other_draws() -> None:
    first = drawn(0, 10, "draw")
    torch.manual_seed(1)
    drawn(0, 11, "draw")
    assert drawn(0, 10, "draw") == first


def test_seed_step_and_purpose_each_change_what_is_drawn() -> None:
    draws = [tuple(drawn(*of)) for of in [(0, 1, "draw"), (0, 2, "draw"), (1, 1, "draw"), (0, 1, "dropout")]]
    assert len(set(draws)) == 4


def test_every_row_of_every_step_and_seed_has_a_key_of_its_own() -> None:
    keys = np.concatenate([row_keys(seed, step, np.arange(512)) for seed in range(3) for step in range(20)])
    assert keys.dtype == np.int64
    assert len(set(keys.tolist())) == 3 * 20 * 512


def test_the_key_of_a_row_is_that_of_its_place_whoever_has_it() -> None:
    whole = row_keys(7, 3, np.arange(24))
    for num_replicas in REPLICAS:
        for replica in range(num_replicas):
            places, _ = replica_rows(np.arange(24), replica, num_replicas, 24)
            assert row_keys(7, 3, places).tolist() == whole[places].tolist()
