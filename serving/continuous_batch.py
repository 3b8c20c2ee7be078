"""ContinuousBatch: all texts that are asked for at the same time, in one model, each as soon as there is room.

A text that is done makes room for the next one at once, instead of when the longest of its batch is done (Yu et al.,
2022, Orca). The model runs in a thread of its own, so that the event loop answers meanwhile.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from torch import Tensor

from jobs.workloads.language import AnyDecoder
from serving.sampling import Sampler

log = logging.getLogger(__name__)


class _End:
    """What is told after the last token."""


@dataclass
class _Text:
    """One that is asked for."""

    prompt: Sequence[int]
    num_left: int
    """Tokens that may still come."""
    sampler: Sampler
    tell: Callable[[int | _End | Exception], None]
    is_left: bool = False
    """Whether nobody waits for it any more."""
    last: int = field(default=-1, init=False)


class ContinuousBatch:
    """A model that any number of callers may ask at the same time."""

    def __init__(self, decoder: AnyDecoder, allowed: Callable[[Tensor], Tensor]) -> None:
        """Args:
        allowed: logits with -inf for the tokens that must not follow.
        """
        self._decoder, self._allowed = decoder, allowed
        self._waiting: SimpleQueue[_Text | None] = SimpleQueue()
        self._running: list[_Text] = []
        """By their number in the decoder."""
        self._thread = threading.Thread(target=self._run, name="continuous batch", daemon=True)
        self._thread.start()

    async def tokens(self, prompt: Sequence[int], max_tokens: int, sampler: Sampler) -> AsyncGenerator[int]:
        """What follows the prompt, token by token; a caller that leaves off early frees its place.

        Args:
            prompt: a token at least; with the tokens that follow, but the last, within the decoder's capacity.
        """
        if max_tokens == 0:
            return
        loop, told = asyncio.get_running_loop(), asyncio.Queue[int | _End | Exception]()

        def tell(what: int | _End | Exception) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(told.put_nowait, what)

        text = _Text(prompt, max_tokens, sampler, tell)
        self._waiting.put(text)
        try:
            while not isinstance(what := await told.get(), _End):
                if isinstance(what, Exception):
                    raise what
                yield what
        finally:
            text.is_left = True

    def close(self) -> None:
        """End the thread once what was asked for is answered."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open or self._running:
            newcomers, is_open = self._newcomers(is_open)
            try:
                self._step(newcomers)
            except Exception as error:  # those of this step are told; the next ones may go well
                log.exception("a step of %d texts failed", len(self._running) + len(newcomers))
                self._fail([*self._running, *newcomers], error)

    def _newcomers(self, is_open: bool) -> tuple[list[_Text], bool]:
        """As many that wait as there is room for, and whether more may come; waits where there is nothing to do."""
        found: list[_Text] = []
        while is_open and len(self._running) + len(found) < self._decoder.max_texts:
            try:
                text = self._waiting.get(block=not self._running and not found)
            except Empty:
                break
            if text is None:
                return found, False
            if not text.is_left:
                found.append(text)
        return found, is_open

    def _step(self, newcomers: list[_Text]) -> None:
        """One token more of every text."""
        if self._running:
            self._draw(self._decoder.go_on([text.last for text in self._running]), self._running)
        if newcomers:
            logits = self._decoder.begin([text.prompt for text in newcomers])
            self._running += newcomers
            self._draw(logits, newcomers)
        for number in reversed(range(len(self._running))):
            text = self._running[number]
            if text.num_left == 0 or text.is_left:
                self._decoder.drop(number)
                last = self._running.pop()
                if number < len(self._running):
                    self._running[number] = last
                text.tell(_End())

    def _draw(self, logits: Tensor, texts: Sequence[_Text]) -> None:
        for text, row in zip(texts, self._allowed(logits), strict=True):
            try:
                text.last = text.sampler.draw(row)
            except Exception as error:  # the others' rows are their own
                log.exception("a text's next token cannot be drawn")
                text.tell(error)
                text.is_left = True
                continue
            text.num_left -= 1
            text.tell(text.last)

    def _fail(self, texts: Sequence[_Text], error: Exception) -> None:
        for text in texts:
            text.tell(error)
        self._running = []
        self._decoder.clear()
