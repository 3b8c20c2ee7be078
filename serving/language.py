"""language: a language model behind OpenAI's API; streamed where asked, and any number of texts at a time.

GET  /health               which version answers, and how good it is
GET  /v1/models            the model's name
POST /v1/completions       beginnings of documents -> how they go on
POST /v1/chat/completions  a conversation -> the assistant's next turn

The official client finds it at `base_url=http://HOST:PORT/NAME/v1`.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from time import time
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from ray import serve
from starlette.responses import StreamingResponse

from cluster.registry import Registry
from cluster.storage import Storage
from jobs.spec import RingSpec
from serving.ask import Question
from serving.chat_format import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatRequest,
    Choice,
    Completion,
    CompletionRequest,
    Generation,
    Message,
    Model,
    Models,
    Said,
    Usage,
)
from serving.chat_template import prompt_of
from serving.continuation import Asked, Piece, pieces, whole
from serving.continuous_batch import ContinuousBatch
from serving.endpoint import Health, endpoint, serving_version
from serving.language_model import LanguageModel
from serving.problem import fault
from serving.replica_device import device_of_replica

EVENTS = "text/event-stream"


class _Application:
    """The routes' answers, over a loaded version that many ask at the same time."""

    def __init__(self, model: LanguageModel, batch: ContinuousBatch, chat_template: str) -> None:
        self._model, self._batch, self._chat_template = model, batch, chat_template
        self.name = model.spec.name

    def models(self) -> Models:
        return Models(data=[Model(id=self.name, created=_seconds(self._model.created_at))])

    async def complete(self, request: CompletionRequest) -> Completion | StreamingResponse:
        self._check_model(request)
        prompts = await asyncio.to_thread(self._tokens, request.prompts)
        for prompt in prompts:
            self._check_room(prompt, request.max_tokens, "prompt", "max_tokens")
        asked = self._asked(request, prompts, [request.max_tokens] * len(prompts))
        told = self._told("cmpl")
        if request.stream:

            def chunk(piece: Piece) -> Completion:
                return Completion(**told, choices=[Choice(index=piece.index, text=piece.text, finish_reason=piece.end)])

            end = (lambda usage: Completion(**told, choices=[], usage=usage)) if request.counts_in_stream else None
            return self._streamed(asked, prompts, chunk, end)
        texts = await whole(pieces(self._batch, asked))
        choices = [Choice(index=text.index, text=text.text, finish_reason=text.end) for text in texts]
        return Completion(**told, choices=choices, usage=_usage(prompts, texts))

    async def chat(self, request: ChatRequest) -> ChatCompletion | StreamingResponse:
        self._check_model(request)
        try:
            prompt = await asyncio.to_thread(self._tokens_of_chat, request.messages)
        except ValueError as error:
            raise _invalid("messages", f"The chat template refuses them: {error}") from None
        wanted = request.max_completion_tokens or request.max_tokens
        self._check_room(prompt, wanted or 1, "messages", "max_completion_tokens")
        asked = self._asked(request, [prompt], [wanted or self._model.room_after(prompt)])
        told = self._told("chatcmpl")
        if request.stream:

            def chunk(piece: Piece) -> ChatChunk:
                choice = ChatChunkChoice(index=piece.index, delta=Said(content=piece.text), finish_reason=piece.end)
                return ChatChunk(**told, choices=[choice])

            end = (lambda usage: ChatChunk(**told, choices=[], usage=usage)) if request.counts_in_stream else None
            return self._streamed(asked, [prompt], chunk, end)
        texts = await whole(pieces(self._batch, asked))
        choices = [
            ChatChoice(index=text.index, message=Said(content=text.text), finish_reason=text.end or "length")
            for text in texts
        ]
        return ChatCompletion(**told, choices=choices, usage=_usage([prompt], texts))

    def _tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        """In a thread: a megabyte takes most of a second, in which the event loop would answer nobody."""
        return [self._model.tokens_of(prompt) for prompt in prompts]

    def _tokens_of_chat(self, messages: Sequence[Message]) -> list[int]:
        """As `_tokens`, of a conversation."""
        return self._model.tokens_of(prompt_of(self._chat_template, messages))

    def _asked(self, request: Generation, prompts: Sequence[Sequence[int]], max_tokens: Sequence[int]) -> list[Asked]:
        """Every text that is to be made, those of one prompt after another."""
        each = [(prompt, most) for prompt, most in zip(prompts, max_tokens, strict=True) for _ in range(request.n)]
        return [
            Asked(prompt, most, request.sampling(number), self._model.stream(request.stops))
            for number, (prompt, most) in enumerate(each)
        ]

    def _streamed(
        self,
        asked: Sequence[Asked],
        prompts: Sequence[Sequence[int]],
        chunk: Callable[[Piece], BaseModel],
        end: Callable[[Usage], BaseModel] | None,
    ) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            last: dict[int, Piece] = {}
            async for piece in pieces(self._batch, asked):
                last[piece.index] = piece
                yield _event(chunk(piece).model_dump_json())
            if end:
                yield _event(end(_usage(prompts, last.values())).model_dump_json())
            yield _event("[DONE]")

        return StreamingResponse(events(), media_type=EVENTS)

    def _told(self, kind: str) -> dict[str, Any]:
        """What every answer says of itself."""
        return {
            "id": f"{kind}-{uuid4().hex}",
            "created": int(time()),
            "model": self.name,
            "system_fingerprint": self._model.version,
        }

    def _check_model(self, request: Generation) -> None:
        if request.model != self.name:
            raise HTTPException(404, f"there is no model '{request.model[:80]}' here; this one is '{self.name}'")

    def _check_room(self, prompt: Sequence[int], max_tokens: int, field: str, asked_for: str) -> None:
        if max_tokens > self._model.room_after(prompt):
            raise _invalid(
                field,
                f"Is of {len(prompt)} tokens, and {max_tokens} more in {asked_for} do not fit into the model's context "
                f"of {self._model.context_length}; shorten it, or ask for fewer",
            )


def web(model: LanguageModel, batch: ContinuousBatch, chat_template: str, max_body_bytes: int, release: str) -> FastAPI:
    """The application over a loaded version, as plain ASGI; `release` is what its health names it."""
    health = Health(version=model.version, release=release, created_at=model.created_at, metrics=model.metrics)
    application = endpoint(model.spec.name, f"Texts by version `{model.version}`.", health, max_body_bytes)
    answers = _Application(model, batch, chat_template)

    @application.get("/v1/models")
    async def models() -> Models:
        """The model that answers here."""
        return answers.models()

    @application.post("/v1/completions", response_model=Completion)
    async def complete(request: CompletionRequest) -> Any:
        """How the beginnings of documents go on."""
        return await answers.complete(request)

    @application.post("/v1/chat/completions", response_model=ChatCompletion)
    async def chat(request: ChatRequest) -> Any:
        """What the assistant says next."""
        return await answers.chat(request)

    return application


def load(spec: RingSpec, storage: Storage, version: str, release: str) -> FastAPI:
    """The application of a version.

    Raises:
        RegistryError: it is not what was published, or answers unlike it did in training.
        ClusterError: see `device_of_replica`.
    """
    model, generation = (
        LanguageModel.load(Registry(storage, spec.name), version, device_of_replica(spec.serving)),
        spec.serving.generation,
    )
    batch = model.opened(generation.max_texts)
    application = web(model, batch, generation.chat_template, spec.serving.max_body_bytes, release)
    weakref.finalize(application, batch.close)
    return application


def build(spec: RingSpec, storage: Storage) -> serve.Application:
    """See `serving_version`."""
    return serving_version(spec, storage, load)


def questions(spec: RingSpec, storage: Storage) -> Sequence[Question]:
    """Three that show what it can do: health, a text that goes on, and a conversation."""
    registry = Registry(storage, spec.name)
    LanguageModel.load(registry, registry.resolve(spec.serving.version))
    begun = {"model": spec.name, "prompt": "The ", "max_tokens": 60, "temperature": 0.7, "seed": 0}
    said = [{"role": "user", "content": "Hello!"}]
    return (
        Question("health", "/health"),
        Question("a text that goes on", "/v1/completions", begun),
        Question("a conversation", "/v1/chat/completions", {"model": spec.name, "messages": said, "stop": "\n"}),
    )


def golden(spec: RingSpec, storage: Storage) -> Sequence[Question]:
    """How each golden prompt goes on, as far as a context reaches, always with the likeliest token."""
    registry = Registry(storage, spec.name)
    model = LanguageModel.load(registry, registry.resolve(spec.serving.version))
    asked = [
        (prompt, min(num_tokens, model.room_after(model.tokens_of(prompt)))) for prompt, num_tokens in model.golden
    ]
    greedy = {"model": spec.name, "temperature": 0}
    return [
        Question(f"golden prompt {number}", "/v1/completions", {**greedy, "prompt": prompt, "max_tokens": room})
        for number, (prompt, room) in enumerate(asked)
        if room > 0
    ]


def _usage(prompts: Sequence[Sequence[int]], texts: Any) -> Usage:
    read, made = sum(map(len, prompts)), sum(text.num_tokens for text in texts)
    return Usage(prompt_tokens=read, completion_tokens=made, total_tokens=read + made)


def _event(content: str) -> str:
    return f"data: {content}\n\n"


def _seconds(moment: str) -> int:
    """An ISO 8601 moment in seconds since 1970."""
    return int(datetime.fromisoformat(moment).timestamp())


def _invalid(field: str, rule: str) -> RequestValidationError:
    return RequestValidationError([fault(("body", field), rule)])
