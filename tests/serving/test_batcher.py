"""What is answered together, and that nobody has to bear what another one asked."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from serving.batcher import Batcher


class Model:
    """Doubles numbers, refuses negative ones, and is as slow as the test says."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.is_free = threading.Event()
        self.is_free.set()
        self.at_work = threading.Event()

    def __call__(self, rows: list[int]) -> Sequence[int]:
        self.batches.append(rows)
        self.at_work.set()
        assert self.is_free.wait(60)
        if any(row < 0 for row in rows):
            raise ValueError(f"{min(rows)} is below 0")
        return [2 * row for row in rows]


async def busy(model: Model, batcher: Batcher[int, int]) -> "asyncio.Task[list[int]]":
    """A request that the model is at work on until it `is_free`."""
    model.is_free.clear()
    model.at_work.clear()
    first = asyncio.create_task(batcher.ask([1]))
    assert await asyncio.to_thread(model.at_work.wait, 60)
    return first


async def waiting(batcher: Batcher[int, int], asked: Sequence[Sequence[int]]) -> "list[asyncio.Task[list[int]]]":
    tasks = [asyncio.create_task(batcher.ask(rows)) for rows in asked]
    await asyncio.sleep(0)
    return tasks


def test_a_lone_request_is_answered_at_once_and_alone() -> None:
    model = Model()

    async def ask() -> list[int]:
        batcher = Batcher(model, 8)
        return [*await batcher.ask([3, 4]), *await batcher.ask([5])]

    assert asyncio.run(ask()) == [6, 8, 10]
    assert model.batches == [[3, 4], [5]]


def test_all_that_waits_is_the_next_batch_and_each_gets_its_own_answers() -> None:
    model = Model()

    async def ask() -> list[list[int]]:
        batcher = Batcher(model, 8)
        first = await busy(model, batcher)
        others = await waiting(batcher, [[2], [3, 4], [5]])
        model.is_free.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(ask()) == [[2], [4], [6, 8], [10]]
    assert model.batches == [[1], [2, 3, 4, 5]]


def test_a_batch_has_no_more_rows_than_it_may_and_order_is_kept() -> None:
    model = Model()

    async def ask() -> list[list[int]]:
        batcher = Batcher(model, 3)
        first = await busy(model, batcher)
        others = await waiting(batcher, [[2, 3], [4, 5], [6], [7, 8, 9, 10], [11]])
        model.is_free.set()
        return await asyncio.gather(first, *others)

    assert [answer for answers in asyncio.run(ask()) for answer in answers] == [2 * row for row in range(1, 12)]
    assert model.batches == [[1], [2, 3], [4, 5, 6], [7, 8, 9, 10], [11]]


def test_rows_that_cannot_be_answered_cost_the_others_nothing() -> None:
    model = Model()

    async def ask() -> list[list[int] | BaseException]:
        batcher = Batcher(model, 8)
        first = await busy(model, batcher)
        others = await waiting(batcher, [[2], [-3, 4], [5]])
        model.is_free.set()
        answers = await asyncio.gather(first, *others, return_exceptions=True)
        return [*answers, await batcher.ask([6])]

    first, second, refused, third, later = asyncio.run(ask())
    assert (first, second, third, later) == ([2], [4], [10], [12])
    assert isinstance(refused, ValueError)
    assert str(refused) == "-3 is below 0"


def test_what_nobody_waits_for_is_not_computed() -> None:
    model = Model()

    async def ask() -> list[list[int]]:
        batcher = Batcher(model, 8)
        first = await busy(model, batcher)
        gone, stays = await waiting(batcher, [[2], [3]])
        gone.cancel()
        await asyncio.sleep(0)
        model.is_free.set()
        return await asyncio.gather(first, stays)

    assert asyncio.run(ask()) == [[2], [6]]
    assert model.batches == [[1], [3]]


def test_the_loop_is_free_while_the_model_is_at_work() -> None:
    model = Model()

    async def ask() -> bool:
        batcher = Batcher(model, 8)
        first = await busy(model, batcher)
        for _ in range(100):
            await asyncio.sleep(0)
        was_at_work = not first.done()
        model.is_free.set()
        await first
        return was_at_work

    assert asyncio.run(ask())


@pytest.mark.parametrize("answer", [lambda rows: rows[:-1], lambda rows: [*rows, 0]])
def test_answers_that_are_not_one_a_row_are_an_error(answer: Callable[[list[int]], list[int]]) -> None:
    async def ask() -> list[int]:
        return await Batcher(answer, 8).ask([1, 2])

    with pytest.raises(RuntimeError, match=r"\d answers to 2 rows"):
        asyncio.run(ask())


def test_batches_are_noted_as_they_begin() -> None:
    noted: list[tuple[int, int]] = []

    async def ask() -> None:
        batcher = Batcher(lambda rows: rows, 4, lambda num_rows, num_waiting: noted.append((num_rows, num_waiting)))
        await asyncio.gather(*(batcher.ask([1, 2]) for _ in range(5)))

    asyncio.run(ask())
    assert [num_rows for num_rows, _ in noted] == [4, 4, 2]
    assert [num_waiting for _, num_waiting in noted] == [6, 2, 0]


def test_clients_that_were_answered_together_and_ask_again_are_one_batch() -> None:
    """They come one, two and three turns of the event loop later; a batch of the first alone would be a third."""
    batches: list[int] = []

    async def client(number: int, batcher: Batcher[int, int]) -> None:
        for _ in range(20):
            await batcher.ask([number])
            for _ in range(number % 3):
                await asyncio.sleep(0)

    async def all_of_them() -> None:
        batcher = Batcher[int, int](lambda rows: rows, 64, lambda num_rows, _: batches.append(num_rows))
        await asyncio.gather(*(client(number, batcher) for number in range(12)))

    asyncio.run(all_of_them())
    assert sum(batches) == 12 * 20
    early = batches[1:15]
    assert min(early) == 12
