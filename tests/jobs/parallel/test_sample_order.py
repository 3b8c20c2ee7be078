import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from jobs.parallel import sample_order
from jobs.parallel.sample_order import EpochOrder, other_places, replica_rows, row_keys, step_generator, steps_in_epoch

SIZES = [(1, 1), (7, 3), (12, 4), (12, 5), (13, 64), (100, 1), (1000, 64)]
REPLICAS = [1, 2, 3, 8]
PAGE_ROWS, SHUFFLE_ROWS = 4, 8
"""A window of two pages; where a test says how many rows a page has, these are not used."""
DRAW = """
import numpy as np
import torch
from jobs.parallel import sample_order
from jobs.parallel.sample_order import EpochOrder, step_generator
sample_order.PAGE_ROWS, sample_order.PAGES_A_WINDOW = 4, 1
order = EpochOrder(5, 2, 30, 8)
draws = torch.randint(9**9, (4,), generator=step_generator(5, 2, "draw"))
print([order.window(number).tolist() for number in range(order.num_windows)], draws.tolist())
"""


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_order, "PAGE_ROWS", PAGE_ROWS)
    monkeypatch.setattr(sample_order, "PAGES_A_WINDOW", 1)


def windows(order: EpochOrder) -> list[np.ndarray]:
    return [order.window(number) for number in range(order.num_windows)]


def rows_of(order: EpochOrder) -> np.ndarray:
    """All rows of an epoch in the order of their visit."""
    return np.concatenate(windows(order))


def batches(seed: int, epoch: int, num_rows: int, batch_size: int) -> list[np.ndarray]:
    rows = rows_of(EpochOrder(seed, epoch, num_rows, SHUFFLE_ROWS))
    steps = range(steps_in_epoch(num_rows, batch_size))
    return [rows[step * batch_size : (step + 1) * batch_size] for step in steps]


def drawn(seed: int, step: int, purpose: str) -> list[int]:
    draws: list[int] = torch.randint(9**9, (4,), generator=step_generator(seed, step, purpose)).tolist()
    return draws


def dealt(batch: np.ndarray, num_replicas: int, batch_size: int) -> list[np.ndarray]:
    """The rows of a batch that each replica takes, without those that only fill up."""
    parts = [replica_rows(len(batch), replica, num_replicas, batch_size) for replica in range(num_replicas)]
    return [batch[places[weight == 1]] for places, weight in parts]


def in_pages_and_windows(num_rows: tuple[int, ...], shuffle_rows: tuple[int, ...]) -> pytest.MarkDecorator:
    cases = [(rows, together) for rows in num_rows for together in shuffle_rows]
    return pytest.mark.parametrize(("num_rows", "shuffle_rows"), cases)


of_any_size = in_pages_and_windows((1, 3, 4, 5, 11, 12, 16, 61, 64), (1, 2, 3, 4, 5, 8, 15, 16, 60, 61, 100))


@of_any_size
def test_windows_together_hold_every_row_once(num_rows: int, shuffle_rows: int) -> None:
    order = EpochOrder(3, 1, num_rows, shuffle_rows)
    assert sorted(rows_of(order).tolist()) == list(range(num_rows))
    assert {window.dtype for window in windows(order)} == {np.dtype(np.int64)}


@of_any_size
def test_a_window_has_as_many_whole_pages_as_fit_into_it(num_rows: int, shuffle_rows: int) -> None:
    order = EpochOrder(3, 1, num_rows, shuffle_rows)
    page_rows = min(PAGE_ROWS, shuffle_rows)
    if num_rows <= shuffle_rows:
        assert order.num_windows == 1
        return
    pages = [set(window // page_rows) for window in windows(order)]
    assert [len(of_window) for of_window in pages[:-1]] == [shuffle_rows // page_rows] * (order.num_windows - 1)
    assert 1 <= len(pages[-1]) <= shuffle_rows // page_rows
    assert sum(map(len, pages)) == len(set.union(*pages))  # none is in two windows
    assert max(map(len, windows(order))) <= shuffle_rows


@of_any_size
def test_starts_are_the_places_of_each_windows_first_row_and_the_end(num_rows: int, shuffle_rows: int) -> None:
    order = EpochOrder(3, 1, num_rows, shuffle_rows)
    lengths = [len(window) for window in windows(order)]
    assert order.starts.tolist() == [sum(lengths[:number]) for number in range(len(lengths) + 1)]
    assert order.starts[-1] == num_rows
    assert order.starts.dtype == np.int64


@of_any_size
def test_every_place_is_in_the_window_that_holds_its_row(num_rows: int, shuffle_rows: int) -> None:
    order = EpochOrder(3, 1, num_rows, shuffle_rows)
    found = [order.window_at(place) for place in range(num_rows)]
    assert found == [number for number, window in enumerate(windows(order)) for _ in window]


@pytest.mark.parametrize("shuffle_rows", [100, 4096, 5000, 9000, 2**17])
def test_pages_of_their_own_size_hold_every_row_once(monkeypatch: pytest.MonkeyPatch, shuffle_rows: int) -> None:
    monkeypatch.undo()
    order = EpochOrder(0, 0, 20_001, shuffle_rows)
    assert np.array_equal(np.sort(rows_of(order)), np.arange(20_001))
    assert order.num_windows == {2**17: 1, 9000: 3, 100: 209}.get(shuffle_rows, 5)


@pytest.mark.parametrize("shuffle_rows", [100, 4096, 5000, 9000])
def test_a_window_of_any_size_takes_rows_from_many_places(monkeypatch: pytest.MonkeyPatch, shuffle_rows: int) -> None:
    monkeypatch.undo()
    rows = np.sort(EpochOrder(0, 0, 2**20, shuffle_rows).window(0))
    assert (np.diff(rows) > 1).sum() >= 10


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
    for replica in range(4):
        places, weight = replica_rows(num_rows, replica, 4, 8)
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


@pytest.mark.parametrize("shuffle_rows", [24, 64])
def test_epochs_and_seeds_each_have_an_order_of_their_own(shuffle_rows: int) -> None:
    orders = [EpochOrder(seed, epoch, 50, shuffle_rows) for seed in range(4) for epoch in range(4)]
    assert len({tuple(rows_of(order)) for order in orders}) == 16
    assert len({tuple(np.sort(order.window(0))) for order in orders}) == (1 if shuffle_rows == 64 else 16)


@pytest.mark.parametrize("page_rows", [1, 64, 4096])
def test_rows_of_one_window_are_mixed_over_the_whole_epoch(monkeypatch: pytest.MonkeyPatch, page_rows: int) -> None:
    monkeypatch.setattr(sample_order, "PAGE_ROWS", page_rows)
    (rows,) = windows(EpochOrder(0, 0, 10_000, 3 * 4096))
    assert 2_400 < (rows[:5_000] < 5_000).sum() < 2_600  # 100 is four standard deviations


def test_a_window_of_several_mixes_pages_from_all_over_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_order, "PAGE_ROWS", 10)
    mixed = windows(EpochOrder(0, 0, 4_000, 400))
    assert len(mixed) == 10
    for window in mixed:
        pages = np.unique(window) // 10
        assert 20 * 10 - 120 < (pages < 200).sum() < 20 * 10 + 120  # 12 of 40 pages are four standard deviations
        lower = window < np.median(window)
        assert 80 < lower[:200].sum() < 120  # 20 is four standard deviations


def test_every_window_is_mixed_in_a_way_of_its_own() -> None:
    places = [tuple(np.argsort(window)) for window in windows(EpochOrder(0, 0, 160, 16))]
    assert len(set(places)) == len(places) == 10


@pytest.mark.parametrize(("page_rows", "shuffle_rows", "num_orders"), [(2, 4, 24), (1, 2, 24), (2, 2, 8)])
def test_every_order_that_windows_allow_is_as_likely(
    monkeypatch: pytest.MonkeyPatch, page_rows: int, shuffle_rows: int, num_orders: int
) -> None:
    """Windows of pairs that lie together can come in either order, and each of them too: 2 x 2 x 2."""
    monkeypatch.setattr(sample_order, "PAGE_ROWS", page_rows)
    seen = Counter(tuple(rows_of(EpochOrder(0, epoch, 4, shuffle_rows)).tolist()) for epoch in range(4_800))
    expected = 4_800 / num_orders
    assert len(seen) == num_orders
    assert max(abs(count - expected) for count in seen.values()) < 5 * expected**0.5


def test_another_process_gets_the_same_order_and_draws() -> None:
    command = [sys.executable, "-c", DRAW]
    other = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    order = EpochOrder(5, 2, 30, 8)
    assert order.num_windows == 4
    assert other.strip() == f"{[window.tolist() for window in windows(order)]} {drawn(5, 2, 'draw')}"


@pytest.mark.parametrize("step", [0, 3, 6, 7])
def test_a_run_that_goes_on_at_a_step_sees_exactly_the_rest(step: int) -> None:
    whole, place = np.concatenate(batches(1, 4, 100, 16)), min(step * 16, 100)
    order = EpochOrder(1, 4, 100, SHUFFLE_ROWS)  # which has read nothing before
    later = [order.window(number) for number in range(order.window_at(place), order.num_windows)]
    rest = np.concatenate([*later, np.empty(0, np.int64)])
    assert rest[len(rest) - (100 - place) :].tolist() == whole[place:].tolist()
    assert len(rest) - (100 - place) < SHUFFLE_ROWS  # nothing before the window of its place


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
            places, _ = replica_rows(24, replica, num_replicas, 24)
            assert row_keys(7, 3, places).tolist() == whole[places].tolist()


def test_every_row_of_a_step_is_beside_one_and_in_each_step_beside_another() -> None:
    beside = [other_places(seed, step, 64) for seed, step in ((5, 2), (5, 3), (6, 2))]
    assert all(sorted(places) == list(range(64)) for places in beside)
    assert np.array_equal(beside[0], other_places(5, 2, 64))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (beside[one] == beside[other]).mean() < 0.2
    own = np.mean([(other_places(5, step, 64) == np.arange(64)).sum() for step in range(500)])
    assert abs(own - 1) < 0.25  # the mean number of fixed points of a random permutation
