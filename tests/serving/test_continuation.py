import asyncio
from collections.abc import Iterator
from itertools import count
from threading import Event
from typing import Any

import pytest
from torch import Tensor

from jobs.workloads.decoding import Decoder
from serving.continuation import Asked, Piece, pieces, whole
from serving.continuous_batch import ContinuousBatch
from serving.language_model import LanguageModel
from serving.sampling import Sampling
from tests.serving.texts import LINE


@pytest.fixture
def batch(language_model: LanguageModel) -> Iterator[ContinuousBatch]:
    opened = language_model.opened(4)
    yield opened
    opened.close()


def asked(model: LanguageModel, prompt: str, max_tokens: int, *stops: str, **sampling: Any) -> Asked:
    return Asked(model.tokens_of(prompt), max_tokens, Sampling(**{"temperature": 0, **sampling}), model.stream(stops))


def texts(batch: ContinuousBatch, *given: Asked) -> list[Piece]:
    async def gathered() -> list[Piece]:
        return await whole(pieces(batch, given))

    return asyncio.run(gathered())


def test_texts_that_were_learned_go_on_as_learned(language_model: LanguageModel, batch: ContinuousBatch) -> None:
    one = asked(language_model, LINE[:16], 20)
    two = asked(language_model, LINE[:16], 40, "sat")
    assert texts(batch, one, two) == [
        Piece(0, LINE[16:36], 20, "length"),
        Piece(1, LINE[16 : LINE.index("sat")], LINE.index("sat") + len("sat") - 16, "stop"),
    ]


def test_pieces_of_several_texts_come_as_they_are_made(
    language_model: LanguageModel, batch: ContinuousBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model begins once both are asked for, and is held at its fourth step until pieces of both have come."""
    begin, go_on, num_steps = Decoder.begin, Decoder.go_on, count()
    are_asked, are_seen = Event(), Event()

    def begin_with_both(*given: Any) -> Tensor:
        assert are_asked.wait(60)
        return begin(*given)

    def held(*given: Any) -> Tensor:
        if next(num_steps) == 3:
            assert are_seen.wait(60)
        return go_on(*given)

    async def after_both() -> None:
        await asyncio.sleep(0)  # their tasks are made after this one's
        are_asked.set()

    async def order() -> list[int]:
        started = asyncio.create_task(after_both())
        given = [asked(language_model, LINE[:16], 15), asked(language_model, LINE[:17], 15)]
        found = []
        async for piece in pieces(batch, given):
            found.append(piece.index)
            if 0 in found and 1 in found:
                are_seen.set()
        await started
        return found

    monkeypatch.setattr(Decoder, "begin", begin_with_both)
    monkeypatch.setattr(Decoder, "go_on", held)
    found = asyncio.run(order())
    assert found.count(0) == found.count(1) == 16  # each letter, and the end


def test_an_error_in_one_text_is_raised(
    language_model: LanguageModel, batch: ContinuousBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = asked(language_model, LINE[:16], 5)
    monkeypatch.setattr(type(one.stream), "add", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        texts(batch, one)
