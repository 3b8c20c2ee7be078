import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from cluster.layout import AXES, Layout
from jobs.parallel.feed import READ_AHEAD, Feed, Source, StepRows
from jobs.parallel.sample_order import batch_rows, epoch_order

CPU = torch.device("cpu")
LENGTH = 12
"""Positions of a row, which any context of the tests divides."""
WAIT_S = 0.1


def read(numbers: np.ndarray) -> dict[str, Tensor]:
    """Rows that say which they are, and at each position where it is."""
    rows = torch.from_numpy(numbers)
    return {"row": rows, "text": rows[:, None] * 1000 + torch.arange(LENGTH)}


def draw(generator: Generator) -> dict[str, Tensor]:
    return {"drawn": torch.randint(9**9, (5,), generator=generator)}


def source(num_rows: int, reading: Callable[[np.ndarray], dict[str, Tensor]] = read) -> Source:
    return Source(num_rows, reading, draw, ("text",))


def feed(layout: Layout, rank: int, num_rows: int, batch_size: int) -> Feed:
    return Feed(source(num_rows), layout, rank, 5, batch_size, CPU)


def random_case(seed: int) -> tuple[Layout, int, int]:
    """A layout of up to 72 workers, a number of rows and a batch size that divides; some epochs are one small batch."""
    random = Random(seed)
    layout = Layout(
        **{axis: random.choice((1, 1, 2, 3)) for axis in AXES},
        accumulation=random.choice((1, 2, 3)),
        micro_batches=random.choice((1, 2)),
    )
    batch_size = layout.num_replicas * layout.accumulation * layout.micro_batches * random.randint(1, 3)
    layout.check_batch(batch_size)
    return layout, random.randint(1, 4 * batch_size), batch_size


CASES = [random_case(seed) for seed in range(12)]
on_any_layout = pytest.mark.parametrize(
    ("layout", "num_rows", "batch_size"),
    CASES,
    ids=[f"{layout.line()}, {rows} in {size}s".replace(" ", "-") for layout, rows, size in CASES],
)


def joined(rows: StepRows, name: str) -> Tensor:
    """An entry of all passes."""
    return torch.cat([batch[name] for batch in rows.passes])


def epoch_of(layout: Layout, rank: int, num_rows: int, batch_size: int, epoch: int = 1) -> list[StepRows]:
    return list(feed(layout, rank, num_rows, batch_size).epoch(epoch, 0))


def keys_by_row(rows: StepRows) -> dict[int, int]:
    """Of the rows that count."""
    counts = joined(rows, "weight") == 1
    return dict(zip(joined(rows, "row")[counts].tolist(), joined(rows, "key")[counts].tolist(), strict=True))


def keys_of_steps(layout: Layout, num_rows: int, batch_size: int, epoch: int = 1) -> list[dict[int, int]]:
    """The keys of each step's rows, by row, over all replicas; a row that two of them have is an error."""
    steps: dict[int, dict[int, int]] = {}
    for replica in range(layout.num_replicas):
        rank = next(rank for rank in range(layout.num_workers) if layout.replica(rank) == replica)
        for number, rows in enumerate(epoch_of(layout, rank, num_rows, batch_size, epoch)):
            seen, mine = steps.setdefault(number, {}), keys_by_row(rows)
            assert not seen.keys() & mine.keys()
            assert len(mine) == int(joined(rows, "weight").sum())
            seen |= mine
    return list(steps.values())


@on_any_layout
def test_an_epoch_holds_every_row_once(layout: Layout, num_rows: int, batch_size: int) -> None:
    steps = keys_of_steps(layout, num_rows, batch_size)
    assert sorted(row for step in steps for row in step) == list(range(num_rows))


@on_any_layout
def test_rows_of_a_step_and_their_keys_are_those_of_one_worker(layout: Layout, num_rows: int, batch_size: int) -> None:
    assert keys_of_steps(layout, num_rows, batch_size) == keys_of_steps(Layout(), num_rows, batch_size)


@on_any_layout
def test_a_step_has_the_rows_of_its_global_batch(layout: Layout, num_rows: int, batch_size: int) -> None:
    order = epoch_order(5, 1, num_rows)
    for step, keys in enumerate(keys_of_steps(layout, num_rows, batch_size)):
        assert set(keys) == set(batch_rows(order, batch_size, step).tolist())


@on_any_layout
def test_workers_of_a_replica_get_the_same_and_context_peers_their_stretch(
    layout: Layout, num_rows: int, batch_size: int
) -> None:
    steps = [epoch_of(layout, rank, num_rows, batch_size)[-1] for rank in range(layout.num_workers)]
    stretch = LENGTH // layout.context
    for rank, rows in enumerate(steps):
        first = steps[next(other for other in range(rank + 1) if layout.replica(other) == layout.replica(rank))]
        for name in ("row", "key", "weight", "drawn"):
            assert torch.equal(joined(rows, name), joined(first, name))
        begin = layout.coordinate(rank).context * stretch
        whole = read(joined(rows, "row").numpy())["text"]
        assert torch.equal(joined(rows, "text"), whole[:, begin : begin + stretch])


@on_any_layout
def test_shapes_never_change(layout: Layout, num_rows: int, batch_size: int) -> None:
    rows_a_pass = batch_size // layout.num_replicas // layout.accumulation
    for rank in (0, layout.num_workers - 1):
        for rows in epoch_of(layout, rank, num_rows, batch_size):
            assert len(rows.passes) == layout.accumulation
            for batch in rows.passes:
                assert batch["row"].shape == batch["key"].shape == batch["weight"].shape == (rows_a_pass,)
                assert batch["text"].shape == (rows_a_pass, LENGTH // layout.context)
                assert batch["weight"].dtype == torch.float32


@on_any_layout
def test_a_step_knows_the_rows_of_its_global_batch_by_number(layout: Layout, num_rows: int, batch_size: int) -> None:
    numbers = [rows.num_rows for rows in epoch_of(layout, 0, num_rows, batch_size)]
    assert numbers == [min(batch_size, num_rows - begin) for begin in range(0, num_rows, batch_size)]


def test_what_is_drawn_is_of_the_step_and_not_of_the_layout() -> None:
    wide = Layout(replicate=2, shard=2, context=3)
    alone = [joined(rows, "drawn").tolist() for rows in epoch_of(Layout(), 0, 30, 4)]
    assert [joined(rows, "drawn").tolist() for rows in epoch_of(wide, 7, 30, 4)] == alone
    assert len({tuple(drawn) for drawn in alone}) == len(alone)


def test_a_row_has_another_key_and_another_place_in_every_epoch() -> None:
    first, second = (
        [key for step in keys_of_steps(Layout(), 40, 8, epoch) for key in step.items()] for epoch in (0, 1)
    )
    assert not {key for _, key in first} & {key for _, key in second}
    assert [row for row, _ in first] != [row for row, _ in second]


@pytest.mark.parametrize("first", [0, 1, 4, 5])
def test_an_epoch_goes_on_at_any_step_as_if_it_had_never_stopped(first: int) -> None:
    def told(rows: StepRows) -> StepRows:
        return replace(rows, waited_s=0.0, passes=[{k: v.tolist() for k, v in batch.items()} for batch in rows.passes])

    reading = feed(Layout(replicate=2, accumulation=2), 1, 33, 8)
    assert [*map(told, reading.epoch(3, first))] == [*map(told, reading.epoch(3, 0))][first:]


def readers() -> list[threading.Thread]:
    """Threads that read ahead at this moment."""
    return [thread for thread in threading.enumerate() if "_read_ahead" in thread.name]


@pytest.fixture(autouse=True)
def _no_reader_is_left() -> Iterator[None]:
    yield
    assert readers() == []


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_leaving_early_ends_the_reader(taken: int) -> None:
    steps = feed(Layout(), 0, 100, 4).epoch(0, 0)
    for _ in range(taken):
        next(steps)
        assert len(readers()) == 1
    steps.close()  # type: ignore[attr-defined]


def test_an_error_in_training_ends_the_reader() -> None:
    def train(steps: Iterator[StepRows]) -> None:
        for _ in steps:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(feed(Layout(), 0, 100, 4).epoch(0, 0))


def test_an_error_in_the_reader_is_raised_where_its_rows_are_wanted() -> None:
    def failing(numbers: np.ndarray) -> dict[str, Tensor]:
        if third in numbers:
            raise OSError(f"row {third} is gone")
        return read(numbers)

    third = epoch_order(5, 0, 100)[2 * 4]
    taken = []
    with pytest.raises(OSError, match=f"row {third} is gone"):
        taken.extend(Feed(source(100, failing), Layout(), 0, 5, 4, CPU).epoch(0, 0))
    steps = Feed(source(100, failing), Layout(), 0, 5, 4, CPU).epoch(0, 0)
    assert [rows.num_rows for rows in (next(steps), next(steps))] == [4, 4]
    with pytest.raises(OSError, match="is gone"):
        next(steps)


class Gate:
    """A source that can be held up, and says how often it was read."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.reads: list[int] = []

    def read(self, numbers: np.ndarray) -> dict[str, Tensor]:
        self.reads.append(len(numbers))
        assert self.is_open.wait(60)
        return read(numbers)

    def wait_for_read(self, number: int) -> None:
        """Return once the reader has come to this one, so that those before it are ready."""
        ends = time.monotonic() + 60
        while len(self.reads) < number and time.monotonic() < ends:
            time.sleep(0.001)
        assert len(self.reads) >= number


def test_a_slow_source_is_measured_as_a_stall_and_a_ready_one_as_none() -> None:
    gate = Gate()
    steps = Feed(source(80, gate.read), Layout(), 0, 5, 8, CPU).epoch(0, 0)
    opening = threading.Timer(WAIT_S, gate.is_open.set)
    opening.start()
    assert next(steps).waited_s > WAIT_S / 2
    waited = []
    for step in range(1, 8):
        gate.wait_for_read(step + 2)
        waited.append(next(steps).waited_s)
    assert min(waited) < WAIT_S / 10  # of several: a busy machine may hold up any one of them
    steps.close()  # type: ignore[attr-defined]
    opening.join()


def test_only_so_many_steps_are_read_ahead() -> None:
    gate = Gate()
    gate.is_open.set()
    steps = Feed(source(80, gate.read), Layout(), 0, 5, 4, CPU).epoch(0, 0)
    next(steps)
    most = 1 + READ_AHEAD + 1  # one taken, those that wait, and one in the reader's hand
    gate.wait_for_read(most)
    time.sleep(WAIT_S)
    assert len(gate.reads) == most
    steps.close()  # type: ignore[attr-defined]


def test_an_epoch_has_as_many_steps_as_it_takes() -> None:
    assert [feed(Layout(), 0, num_rows, 4).steps_an_epoch for num_rows in (1, 4, 5, 8)] == [1, 1, 2, 2]
