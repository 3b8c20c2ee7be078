"""Texts together and alone, with a real model; only the faults of the last tests are planted."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.features.bpe import START
from jobs.workloads.decoding import Decoder
from jobs.workloads.transformer import TransformerSpec, transformer
from serving.continuous_batch import ContinuousBatch
from serving.sampling import Sampler, Sampling, only

SPEC = TransformerSpec(num_layers=2, hidden_dim=32, feed_forward_dim=48)
CAPACITY, NUM_TOKENS = 48, 20


def allowed(logits: Tensor) -> Tensor:
    return only(logits, 256, {START})


def make_decoder(max_texts: int) -> Decoder:
    torch.manual_seed(0)
    model = transformer(SPEC)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Decoder(model, max_texts, CAPACITY)


@pytest.fixture
def batch() -> Iterator[ContinuousBatch]:
    made = ContinuousBatch(make_decoder(3), allowed)
    yield made
    made.close()


async def text(batch: ContinuousBatch, number: int, num_tokens: int = NUM_TOKENS, **sampling: Any) -> list[int]:
    sampler = Sampler(Sampling(**{"temperature": 0.8, "seed": number, **sampling}))
    return [token async for token in batch.tokens([START, number, number + 1], num_tokens, sampler)]


class Held(Sampler):
    """Draws its token of a number, from 0, once `token_NUMBER` is set, where that is given; the whole batch waits."""

    def __init__(self, **until: threading.Event) -> None:
        super().__init__(Sampling())
        self.began, self._until = threading.Event(), until

    def draw(self, logits: Tensor) -> int:
        self.began.set()
        if event := self._until.get(f"token_{self._drawn.total()}"):
            assert event.wait(60)
        return super().draw(logits)


async def held(batch: ContinuousBatch, num_tokens: int, **until: threading.Event) -> "asyncio.Task[None]":
    """A text that is being made, and goes on once the events are set."""
    sampler = Held(**until)

    async def take() -> None:
        async for _ in batch.tokens([START], num_tokens, sampler):
            pass

    task = asyncio.create_task(take())
    assert await asyncio.to_thread(sampler.began.wait, 60)
    return task


def test_each_of_many_texts_is_the_one_it_is_alone(batch: ContinuousBatch) -> None:
    """Eight of different lengths in room for three."""

    async def together() -> list[list[int]]:
        all_are_asked = threading.Event()
        before = await held(batch, 1, token_0=all_are_asked)
        texts = [asyncio.create_task(text(batch, number, 5 + 3 * number)) for number in range(8)]
        await asyncio.sleep(0)
        all_are_asked.set()
        await before
        return list(await asyncio.gather(*texts))

    async def alone() -> list[list[int]]:
        return [await text(batch, number, 5 + 3 * number) for number in range(8)]

    found = asyncio.run(together())
    assert [len(each) for each in found] == [5 + 3 * number for number in range(8)]
    assert len({tuple(each[:5]) for each in found}) == 8
    assert found == asyncio.run(alone())


def test_a_text_that_comes_later_is_not_behind_a_long_one(batch: ContinuousBatch) -> None:
    """The long one has a token when the short one comes, and does not get its last ones before that is done."""
    is_asked, is_done = threading.Event(), threading.Event()

    async def both() -> list[int]:
        long = await held(batch, 45, token_0=is_asked, token_40=is_done)
        short = asyncio.create_task(text(batch, 1, 2))
        await asyncio.sleep(0)
        is_asked.set()
        found = await short
        is_done.set()
        await long
        return found

    assert len(asyncio.run(both())) == 2


def test_a_caller_that_leaves_off_frees_its_place() -> None:
    batch = ContinuousBatch(make_decoder(1), allowed)

    async def leave_then_ask() -> list[int]:
        tokens = batch.tokens([START], 40, Sampler(Sampling()))
        assert 0 <= await anext(tokens) < 256
        await tokens.aclose()
        return await text(batch, 1)

    try:
        assert len(asyncio.run(leave_then_ask())) == NUM_TOKENS
    finally:
        batch.close()


def test_no_token_is_an_answer_too(batch: ContinuousBatch) -> None:
    assert asyncio.run(text(batch, 1, 0)) == []


def test_a_failed_step_is_told_to_those_in_it_and_the_next_ones_go_well(
    batch: ContinuousBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = asyncio.run(text(batch, 1))
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "go_on", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            asyncio.run(text(batch, 1))
    assert asyncio.run(text(batch, 1)) == fine


@pytest.mark.parametrize("num_drawn", [0, 3])
def test_a_text_that_cannot_be_drawn_ends_alone(batch: ContinuousBatch, num_drawn: int) -> None:
    class Broken(Sampler):
        def draw(self, logits: Tensor) -> int:
            if self._drawn.total() == num_drawn:
                raise ArithmeticError("no chance")
            return super().draw(logits)

    found: list[int] = []

    async def broken() -> None:
        async for token in batch.tokens([START, 7], NUM_TOKENS, Broken(Sampling())):
            found.append(token)

    async def others() -> list[list[int]]:
        """Two beside it, and one in its place."""
        all_are_asked = threading.Event()
        before = await held(batch, 1, token_0=all_are_asked)
        ended = asyncio.create_task(broken())
        texts = [asyncio.create_task(text(batch, number)) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        all_are_asked.set()
        await asyncio.gather(before, *texts)
        with pytest.raises(ArithmeticError, match="no chance"):
            await ended
        return [await each for each in texts]

    async def alone() -> list[list[int]]:
        return [await text(batch, number) for number in (1, 2, 3)]

    assert asyncio.run(others()) == asyncio.run(alone())
    assert len(found) == num_drawn
