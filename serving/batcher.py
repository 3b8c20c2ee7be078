"""Batcher: what is asked at the same time, answered together, without a timer.

While the model is at work, what comes waits; the moment it is free, all that waits or has just arrived is the next
batch (bounded). So a lone request is not held up, and the more come the larger the batches are. The model runs in a
thread of its own: the event loop takes requests, and answers Serve's health checks, meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from opentelemetry.trace import SpanContext

from serving.traces import current, model_span

IDLE_TURNS = 4
"""Of the event loop: as many as a request takes from its socket to here."""

R = TypeVar("R")
A = TypeVar("A")


@dataclass
class _Asked(Generic[R, A]):
    """One request: its rows, and who waits for their answers."""

    rows: Sequence[R]
    answer: "asyncio.Future[list[A]]"
    span: SpanContext


class Batcher(Generic[R, A]):
    """A function of many rows that any number of callers may ask at the same time; of one event loop."""

    def __init__(
        self,
        answer: Callable[[list[R]], Sequence[A]],
        max_rows: int,
        note: Callable[[int, int], None] = lambda num_rows, num_waiting: None,
    ) -> None:
        """Args:
        answer: an answer for each row, whatever the others are; called in one thread, one call after another.
        max_rows: of a batch; a request that has more of its own is a batch alone.
        note: is told the rows of each batch, and how many wait while it begins.
        """
        self._answer, self._max_rows, self._note = answer, max_rows, note
        self._waiting: deque[_Asked[R, A]] = deque()
        self._thread = ThreadPoolExecutor(1, "batcher")
        self._running: asyncio.Task[None] | None = None

    async def ask(self, rows: Sequence[R]) -> list[A]:
        """An answer for each row, in their order.

        Raises:
            Exception: what `answer` raises of these rows alone; those of others, asked together, are not to blame.
        """
        loop = asyncio.get_running_loop()
        asked: _Asked[R, A] = _Asked(rows, loop.create_future(), current())
        self._waiting.append(asked)
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._answer_all())
        return await asked.answer

    async def _answer_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await self._arrived()
            batch = self._next_batch()
            if not batch:  # nobody waits for what waited
                return
            self._note(sum(len(asked.rows) for asked in batch), sum(len(asked.rows) for asked in self._waiting))
            found = await loop.run_in_executor(self._thread, self._traced, batch)
            for asked, answers in zip(batch, found, strict=True):
                if asked.answer.done():  # its client went away
                    continue
                if isinstance(answers, Exception):
                    asked.answer.set_exception(answers)
                else:
                    asked.answer.set_result(answers)

    async def _arrived(self) -> None:
        """Return once all requests that lie in the sockets by now wait here; without a timer.

        The event loop is let go on as long as that brings more: clients that were answered together ask again together.
        """
        num_idle, num_waiting = 0, len(self._waiting)
        while num_idle < IDLE_TURNS and num_waiting < self._max_rows:
            await asyncio.sleep(0)
            num_idle = 0 if len(self._waiting) > num_waiting else num_idle + 1
            num_waiting = len(self._waiting)

    def _next_batch(self) -> list[_Asked[R, A]]:
        """The oldest that wait and fit; those that nobody waits for any more are left out."""
        batch, num_rows = list[_Asked[R, A]](), 0
        while self._waiting:
            if self._waiting[0].answer.done():
                self._waiting.popleft()
                continue
            num_rows += len(self._waiting[0].rows)
            if batch and num_rows > self._max_rows:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _traced(self, batch: "Sequence[_Asked[R, A]]") -> "list[list[A] | Exception]":
        rows = [asked.rows for asked in batch]
        with model_span([asked.span for asked in batch], {"rayline.rows": sum(map(len, rows))}):
            return self._answered(rows)

    def _answered(self, asked: Sequence[Sequence[R]]) -> "list[list[A] | Exception]":
        """The answers to each request; where they cannot be given together, to each by itself."""
        together = [row for rows in asked for row in rows]
        try:
            answers = list(self._answer(together))
            if len(answers) != len(together):
                raise RuntimeError(f"{len(answers)} answers to {len(together)} rows")
        except Exception as error:
            if len(asked) == 1:
                return [error]
            return [self._answered([rows])[0] for rows in asked]
        left = iter(answers)
        return [list(islice(left, len(rows))) for rows in asked]
