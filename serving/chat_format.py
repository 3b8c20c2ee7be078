"""OpenAI's API of completions and chats, as far as our language models answer it: what goes in and what comes out.

Source: https://platform.openai.com/docs/api-reference, completions and chat. A field that is not here is refused.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from serving.endpoint import Body
from serving.sampling import Sampling

MAX_PROMPTS = 32
MAX_CHOICES = 16
MAX_STOPS = 4
MAX_MESSAGES = 1000

Stop = Annotated[str, Field(min_length=1, max_length=256)]
Reason = Literal["stop", "length"]
"""Why a text ended: at a stop string, or at as many tokens as were asked for."""


class StreamOptions(Body):
    """What a stream tells besides."""

    include_usage: bool = False
    """Whether a last chunk counts the tokens."""


class Generation(Body):
    """What both kinds of request say of the text that is wanted."""

    model: str
    """As `/v1/models` lists it."""
    temperature: float = Field(1.0, ge=0, le=2)
    """0 takes the likeliest token each time."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw only from the likeliest tokens that are so likely together."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    seed: int | None = Field(None, ge=0, lt=2**63)
    """The same seed gives the same text, as long as the same version answers."""
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    """The text ends before the first of these."""
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    """Texts for each prompt."""
    stream: bool = False
    """Whether the text comes as it is made, as server-sent events."""
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def counts_in_stream(self) -> bool:
        """Whether a last chunk counts the tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, number: int) -> Sampling:
        """How the text of this number is drawn; each has a seed of its own."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            seed=None if self.seed is None else (self.seed + number) % 2**63,
        )


class CompletionRequest(Generation):
    """How texts go on."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)] = ""
    """The beginnings of documents."""
    max_tokens: int = Field(16, ge=0)
    """At most so many tokens follow; with the prompt they must be within the model's context."""

    @property
    def prompts(self) -> list[str]:
        """The beginnings."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class Message(Body):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(Generation):
    """What an assistant says next."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    """At most so many tokens follow; as many as the context has room for where it is absent."""
    max_tokens: int | None = Field(None, ge=1)
    """The older name of `max_completion_tokens`."""


class Usage(BaseModel):
    """Tokens that were read and made."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(BaseModel):
    """One of the texts asked for, or the next piece of it."""

    index: int
    text: str
    finish_reason: Reason | None
    """None while more follows."""


class Completion(BaseModel):
    """An answer to `/v1/completions`, or a chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    """In seconds since 1970."""
    model: str
    system_fingerprint: str
    """Which version made it."""
    choices: list[Choice]
    usage: Usage | None = None


class Said(BaseModel):
    """What the assistant says."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """One of the turns asked for."""

    index: int
    message: Said
    finish_reason: Reason


class ChatCompletion(BaseModel):
    """An answer to `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class ChatChunkChoice(BaseModel):
    """The next piece of a turn."""

    index: int
    delta: Said
    finish_reason: Reason | None


class ChatChunk(BaseModel):
    """A chunk of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    """A model that answers here."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "rayline"


class Models(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]
