"""What follows prompts, as pieces of text that come as they are made."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from serving.chat_format import Reason
from serving.continuous_batch import ContinuousBatch
from serving.sampling import Sampler, Sampling
from serving.text_stream import TextStream


@dataclass(frozen=True)
class Asked:
    """A text that is to be made."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling
    stream: TextStream
    """Of its own: it keeps what cannot be shown yet."""


@dataclass(frozen=True)
class Piece:
    """The next piece of a text, or all of it."""

    index: int
    """Of the text, among those asked for."""
    text: str
    num_tokens: int
    """That came so far."""
    end: Reason | None = None
    """Why nothing follows."""


async def pieces(batch: ContinuousBatch, asked: Sequence[Asked]) -> AsyncIterator[Piece]:
    """The pieces of all texts in the order they are made; the last of each says why it ended."""
    made: asyncio.Queue[Piece | Exception] = asyncio.Queue()
    tasks = [asyncio.create_task(_make(batch, index, text, made)) for index, text in enumerate(asked)]
    try:
        num_left = len(tasks)
        while num_left:
            piece = await made.get()
            if isinstance(piece, Exception):
                raise piece
            num_left -= piece.end is not None
            yield piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def whole(given: AsyncIterator[Piece]) -> list[Piece]:
    """All pieces of each text as one, in the order they were asked for."""
    texts: dict[int, Piece] = {}
    async for piece in given:
        before = texts.get(piece.index)
        texts[piece.index] = replace(piece, text=before.text + piece.text) if before else piece
    return [texts[index] for index in sorted(texts)]


async def _make(batch: ContinuousBatch, index: int, asked: Asked, made: asyncio.Queue[Piece | Exception]) -> None:
    count, stream = 0, asked.stream
    try:
        async with aclosing(batch.tokens(asked.prompt, asked.max_tokens, Sampler(asked.sampling))) as tokens:
            async for token in tokens:
                count += 1
                shown = stream.add(token)
                if stream.has_ended:
                    made.put_nowait(Piece(index, shown, count, "stop"))
                    return
                if shown:
                    made.put_nowait(Piece(index, shown, count))
        made.put_nowait(Piece(index, stream.rest(), count, "length"))
    except Exception as error:
        made.put_nowait(error)
