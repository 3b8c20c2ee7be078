import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from random import Random
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Generator, Tensor

from cluster.layout import AXES, Layout
from jobs.parallel import sample_order
from jobs.parallel.feed import (
    MAX_CHUNK_STEPS,
    READ_AHEAD,
    Feed,
    Numbered,
    Rows,
    Source,
    StepRows,
    in_order,
)
from jobs.parallel.sample_order import EpochOrder

CPU = torch.device("cpu")
BYTES_A_ROW = 8
"""Of `table`."""
LENGTH = 12
"""Positions of a row, which any context of the tests divides."""
SEED = 5
PAGE_ROWS, SHUFFLE_ROWS = 2, 7
"""Windows of six rows, and one of fewer where the rows do not divide."""
WAIT_S = 0.1


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_order, "PAGE_ROWS", PAGE_ROWS)
    monkeypatch.setattr(sample_order, "PAGES_A_WINDOW", 1)


def table(num_rows: int) -> pa.Table:
    return pa.table({"row": np.arange(num_rows)})


def numbers_of(rows: pa.Table) -> list[int]:
    numbers: list[int] = rows.column("row").to_pylist()
    return numbers


def tensors(rows: pa.Table) -> dict[str, Tensor]:
    """Rows that say which they are, and at each position where it is."""
    numbers = torch.tensor(numbers_of(rows))
    return {"row": numbers, "text": numbers[:, None] * 1000 + torch.arange(LENGTH)}


def visited(num_rows: int, epoch: int = 1, shuffle_rows: int = SHUFFLE_ROWS) -> list[int]:
    """All rows of an epoch in the order of their visit."""
    order = EpochOrder(SEED, epoch, num_rows, shuffle_rows)
    return [row for number in range(order.num_windows) for row in order.window(number).tolist()]


def draw(generator: Generator) -> dict[str, Tensor]:
    return {"drawn": torch.randint(9**9, (5,), generator=generator)}


def source(num_rows: int, rows: Rows | None = None) -> Source:
    return Source(num_rows, rows or in_order(table(num_rows), SEED, SHUFFLE_ROWS), tensors, draw, ("text",))


def feed(layout: Layout, rank: int, num_rows: int, batch_size: int) -> Feed:
    return Feed(source(num_rows), layout, rank, SEED, batch_size, CPU)


def alone(given: Source, batch_size: int) -> Feed:
    """The feed of a worker that has all rows to itself."""
    return Feed(given, Layout(), 0, SEED, batch_size, CPU)


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


def counting(rows: StepRows) -> list[int]:
    """The rows that count, in their order."""
    return [int(row) for row in joined(rows, "row")[joined(rows, "weight") == 1]]


def keys_by_row(rows: StepRows) -> dict[int, int]:
    """Of the rows that count."""
    keys = joined(rows, "key")[joined(rows, "weight") == 1]
    return dict(zip(counting(rows), keys.tolist(), strict=True))


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


def augmenting(num_rows: int) -> Source:
    """Tensors that also say which row was beside, and by which key they were changed."""

    def augment(batch: dict[str, Tensor], other: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        beside = other()
        assert batch["text"].shape == beside["text"].shape == (len(batch["key"]), LENGTH)
        return batch | {"beside": beside["row"], "changed_by": batch["key"], "text": -batch["text"]}

    return replace(source(num_rows), augment=augment)


@on_any_layout
def test_rows_are_augmented_whole_by_their_keys_and_beside_rows_of_their_step(
    layout: Layout, num_rows: int, batch_size: int
) -> None:
    wanted = list(alone(augmenting(num_rows), batch_size).epoch(1, 0))
    beside = [dict(zip(counting(step), joined(step, "beside").tolist(), strict=False)) for step in wanted]
    for step in beside:
        assert sorted(step.values()) == sorted(step)  # every row of the step is beside one
    for rank in range(layout.num_workers):
        plain = epoch_of(layout, rank, num_rows, batch_size)
        found = list(Feed(augmenting(num_rows), layout, rank, SEED, batch_size, CPU).epoch(1, 0))
        for step, before, others in zip(found, plain, beside, strict=True):
            assert torch.equal(joined(step, "changed_by"), joined(step, "key"))
            assert torch.equal(joined(step, "key"), joined(before, "key"))
            assert torch.equal(joined(step, "text"), -joined(before, "text"))
            for row, other in zip(joined(step, "row").tolist(), joined(step, "beside").tolist(), strict=True):
                assert others[row] == other


@on_any_layout
def test_a_step_has_the_rows_of_its_global_batch(layout: Layout, num_rows: int, batch_size: int) -> None:
    order = visited(num_rows)
    for step, keys in enumerate(keys_of_steps(layout, num_rows, batch_size)):
        assert set(keys) == set(order[step * batch_size : (step + 1) * batch_size])


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
        whole = tensors(pa.table({"row": joined(rows, "row").numpy()}))["text"]
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
    one = [joined(rows, "drawn").tolist() for rows in epoch_of(Layout(), 0, 30, 4)]
    assert [joined(rows, "drawn").tolist() for rows in epoch_of(wide, 7, 30, 4)] == one
    assert len({tuple(drawn) for drawn in one}) == len(one)


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


@pytest.mark.parametrize("batch_size", [1, 4, 6, 7, 13, 40, 64])
def test_batches_are_cut_across_windows_that_are_smaller_or_larger(batch_size: int) -> None:
    order = visited(40)
    steps = [counting(rows) for rows in alone(source(40), batch_size).epoch(1, 0)]
    assert steps == [order[begin : begin + batch_size] for begin in range(0, 40, batch_size)]


@pytest.mark.parametrize("shuffle_rows", [1, 2, 3, 6, 20, 40, 1000])
def test_any_number_of_rows_that_are_shuffled_together_makes_full_batches(shuffle_rows: int) -> None:
    order = visited(40, 1, shuffle_rows)
    given = source(40, in_order(table(40), SEED, shuffle_rows))
    steps = [counting(rows) for rows in alone(given, 9).epoch(1, 0)]
    assert steps == [order[begin : begin + 9] for begin in range(0, 40, 9)]


@pytest.mark.parametrize("seed", range(8))
def test_a_source_may_give_its_rows_in_tables_of_any_length(seed: int) -> None:
    def rows(epoch: int, place: int) -> Iterator[pa.Table]:
        cuts = [place, *sorted(random.choices(range(place, 41), k=random.randint(0, 12))), 40]
        for begin, end in pairwise(cuts):
            yield table(40).slice(begin, end - begin)

    random = Random(seed)
    steps = [counting(step) for step in alone(source(40, rows), 6).epoch(0, 2)]
    assert steps == [list(range(begin, min(begin + 6, 40))) for begin in range(12, 40, 6)]


class Counted:
    """Rows by number that say how often, and how many of them, they were asked for."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.reads: list[int] = []

    def take(self, rows: np.ndarray, /) -> pa.Table:
        self.reads.append(len(rows))
        return table(self.num_rows).take(rows)


@pytest.mark.parametrize("num_rows", [1, 5, 6, 40])
def test_rows_in_order_from_any_place_are_the_rest_of_the_epoch(num_rows: int) -> None:
    rows, order = in_order(table(num_rows), SEED, SHUFFLE_ROWS), visited(num_rows)
    for place in range(num_rows + 1):
        assert [row for part in rows(1, place) for row in numbers_of(part)] == order[place:]
    assert [row for part in rows(2, 0) for row in numbers_of(part)] == visited(num_rows, 2)


def test_rows_in_order_read_no_window_before_the_place_and_each_only_as_it_is_wanted() -> None:
    lengths = np.diff(EpochOrder(SEED, 1, 40, SHUFFLE_ROWS).starts).tolist()
    ends = np.cumsum(lengths)
    assert len(lengths) == 7
    for place in range(41):
        counted = Counted(40)
        rows, wanted = in_order(counted, SEED, SHUFFLE_ROWS)(1, place), int((ends <= place).sum())
        assert counted.reads == []
        for number, _ in enumerate(rows, wanted):
            assert counted.reads == lengths[wanted : number + 1]
        assert counted.reads == lengths[wanted:]


def test_an_epoch_that_goes_on_reads_only_the_windows_from_its_step_on() -> None:
    counted = Counted(40)
    steps = [*alone(source(40, in_order(counted, SEED, SHUFFLE_ROWS)), 8).epoch(1, 4)]
    assert [row for step in steps for row in counting(step)] == visited(40)[32:]
    assert counted.reads == np.diff(EpochOrder(SEED, 1, 40, SHUFFLE_ROWS).starts).tolist()[5:]


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


class Failing(Counted):
    """Rows of which one cannot be read."""

    def __init__(self, num_rows: int, gone: int) -> None:
        super().__init__(num_rows)
        self._gone = gone

    def take(self, rows: np.ndarray, /) -> pa.Table:
        if self._gone in rows:
            raise OSError(f"row {self._gone} is gone")
        return super().take(rows)


def assert_fails(steps: Iterator[StepRows], before: list[int], error: type[Exception], message: str) -> None:
    """Steps of these lengths come, then the error instead of the next."""
    assert [next(steps).num_rows for _ in before] == before
    with pytest.raises(error, match=message):
        next(steps)


def test_an_error_in_the_reader_is_raised_where_its_rows_are_wanted() -> None:
    gone = visited(100, 0)[2 * 6]
    given = source(100, in_order(Failing(100, gone), SEED, SHUFFLE_ROWS))
    assert_fails(alone(given, 6).epoch(0, 0), [6, 6], OSError, f"row {gone} is gone")
    with pytest.raises(OSError, match=f"row {gone} is gone"):
        list(alone(given, 6).epoch(0, 0))


def test_an_error_in_making_tensors_is_raised_where_its_table_is_wanted() -> None:
    def rows(epoch: int, place: int) -> Iterator[pa.Table]:
        yield from (table(100).slice(start, 8) for start in range(place, 100, 8))

    def failing(rows: pa.Table) -> dict[str, Tensor]:
        if 9 in numbers_of(rows):
            raise ValueError("row 9 is no number")
        return tensors(rows)

    given = replace(source(100, rows), tensors=failing)
    assert_fails(alone(given, 4).epoch(0, 0), [4, 4], ValueError, "row 9 is no number")


@pytest.mark.parametrize(("batch_size", "most"), [(4, MAX_CHUNK_STEPS), (128, 4), (1024, 1)])
def test_small_steps_are_made_together_and_large_ones_alone(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, most: int
) -> None:
    def counted(rows: pa.Table) -> dict[str, Tensor]:
        lengths.append(rows.num_rows)
        return tensors(rows)

    monkeypatch.setattr("jobs.parallel.feed.CHUNK_BYTES", 128 * 4 * BYTES_A_ROW)
    lengths: list[int] = []
    num_rows = 20 * batch_size + 3
    given = Source(num_rows, lambda epoch, place: iter([table(num_rows).slice(place)]), counted, draw)
    steps = list(alone(given, batch_size).epoch(0, 0))
    assert [step.num_rows for step in steps] == [batch_size] * 20 + [3]
    assert max(lengths) == most * batch_size
    assert sum(lengths) == 21 * batch_size  # the last step is filled up with rows of weight 0


@pytest.mark.parametrize("num_given", [0, 7, 8, 12, 16, 18])
@pytest.mark.parametrize("first", [0, 1])
def test_a_source_that_ends_early_is_an_error_at_the_step_whose_rows_are_missing(num_given: int, first: int) -> None:
    def rows(epoch: int, place: int) -> Iterator[pa.Table]:
        yield table(20).slice(place, max(0, num_given - place))

    whole_steps = max(0, num_given // 8 - first)
    assert_fails(alone(source(20, rows), 8).epoch(3, first), [8] * whole_steps, EOFError, "epoch 3 has 20 rows")


class Gate(Counted):
    """Rows that can be held up."""

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows)
        self.is_open = threading.Event()

    def take(self, rows: np.ndarray, /) -> pa.Table:
        taken = super().take(rows)
        assert self.is_open.wait(60)
        return taken

    def wait_for_read(self, number: int) -> None:
        """Return once the reader has come to this one, so that those before it are ready."""
        ends = time.monotonic() + 60
        while len(self.reads) < number and time.monotonic() < ends:
            time.sleep(0.001)
        assert len(self.reads) >= number


def window_a_step(numbered: Numbered, batch_size: int) -> Feed:
    """A feed whose source is read once for every step."""
    assert batch_size % PAGE_ROWS == 0
    return alone(source(numbered.num_rows, in_order(numbered, SEED, batch_size)), batch_size)


def test_a_slow_source_is_measured_as_a_stall_and_a_ready_one_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, opening = Gate(80), threading.Timer(WAIT_S, lambda: gate.is_open.set())

    def looked_at_the_clock() -> float:
        now_s = time.perf_counter()
        if opening.ident is None:  # from here on the first step is waited for, however late that is
            opening.start()
        return now_s

    monkeypatch.setattr("jobs.parallel.feed.time", SimpleNamespace(perf_counter=looked_at_the_clock))
    steps = window_a_step(gate, 8).epoch(0, 0)
    assert next(steps).waited_s > WAIT_S / 2
    waited = []
    for step in range(1, 8):
        gate.wait_for_read(step + 2)
        waited.append(next(steps).waited_s)
    assert min(waited) < WAIT_S / 10  # of several: a busy machine may hold up any one of them
    steps.close()  # type: ignore[attr-defined]
    opening.join()


def test_only_so_many_steps_are_read_ahead() -> None:
    gate = Gate(80)
    gate.is_open.set()
    steps = window_a_step(gate, 4).epoch(0, 0)
    next(steps)
    most = 1 + READ_AHEAD + 1  # one taken, those that wait, and one in the reader's hand
    gate.wait_for_read(most)
    time.sleep(WAIT_S)
    assert len(gate.reads) == most
    steps.close()  # type: ignore[attr-defined]


def test_an_epoch_has_as_many_steps_as_it_takes() -> None:
    assert [feed(Layout(), 0, num_rows, 4).steps_an_epoch for num_rows in (1, 4, 5, 8)] == [1, 1, 2, 2]
