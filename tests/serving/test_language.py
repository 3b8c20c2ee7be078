"""The application through OpenAI's own client: first without a server, then over HTTP from Serve."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from cluster.lifecycle import Cluster
from cluster.storage import Storage
from jobs.spec import CHAT_TEMPLATE, RingSpec
from serving.app import deploy, remove, stop_if_idle
from serving.ask import ask
from serving.chat_template import prompt_of
from serving.language import golden, questions, web
from serving.language_model import LanguageModel
from tests.ports import kept_ports
from tests.serving.texts import CONTEXT_LENGTH, LINE

BEGUN, GOES_ON = LINE[:16], LINE[16:]
Call = Callable[[openai.AsyncOpenAI], Any]


@pytest.fixture
def texts(language_model: LanguageModel) -> Iterator[FastAPI]:
    batch = language_model.opened(4)
    yield web(language_model, batch, CHAT_TEMPLATE, 100_000, "0123456789ab")
    batch.close()


@pytest.fixture
def call(texts: FastAPI) -> Callable[[Call], Any]:
    """`call(lambda client: ...)`: what the client makes of the application's answer."""

    async def called(call: Call) -> Any:
        transport = httpx.ASGITransport(texts, raise_app_exceptions=False)
        async with (
            httpx.AsyncClient(transport=transport) as http,
            openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http, max_retries=0) as client,
        ):
            answer = await call(client)
            return [chunk async for chunk in answer] if isinstance(answer, AsyncIterator) else answer

    return lambda given: asyncio.run(called(given))


def likeliest(client: openai.AsyncOpenAI, **given: Any) -> Any:
    return client.completions.create(**{"model": "texts", "prompt": BEGUN, "temperature": 0, "max_tokens": 12, **given})


def test_a_text_goes_on_as_it_was_learned(call: Callable[[Call], Any], language_model: LanguageModel) -> None:
    answer = call(likeliest)
    assert [(choice.index, choice.text, choice.finish_reason) for choice in answer.choices] == [
        (0, GOES_ON[:12], "length")
    ]
    assert (answer.model, answer.system_fingerprint) == ("texts", language_model.version)
    assert answer.object == "text_completion"
    read = len(BEGUN.encode()) + 1
    assert vars(answer.usage) | {"prompt_tokens": read, "completion_tokens": 12, "total_tokens": read + 12} == vars(
        answer.usage
    )
    assert abs(answer.created - time.time()) < 60


def test_each_prompt_has_as_many_texts_as_asked_for(call: Callable[[Call], Any]) -> None:
    answer = call(lambda client: likeliest(client, prompt=[BEGUN, LINE[:20]], n=2, max_tokens=5))
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == [GOES_ON[:5]] * 2 + [LINE[20:25]] * 2


def test_a_text_ends_before_a_stop_string(call: Callable[[Call], Any]) -> None:
    answer = call(lambda client: likeliest(client, stop=["on", "sat"], max_tokens=40))
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [
        (GOES_ON[: GOES_ON.index("sat")], "stop")
    ]


def test_a_stream_is_the_same_text_in_pieces(call: Callable[[Call], Any]) -> None:
    chunks = call(lambda client: likeliest(client, stream=True, stream_options={"include_usage": True}))
    *pieces, counted = chunks
    assert "".join(piece.choices[0].text for piece in pieces) == GOES_ON[:12]
    assert [piece.choices[0].finish_reason for piece in pieces] == [None] * 12 + ["length"]
    assert len({piece.id for piece in chunks}) == 1
    assert counted.choices == []
    assert counted.usage.completion_tokens == 12


def test_chance_is_the_same_with_the_same_seed(call: Callable[[Call], Any]) -> None:
    def drawn(seed: int) -> str:
        text: str = call(lambda client: likeliest(client, temperature=2, seed=seed, max_tokens=30)).choices[0].text
        return text

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_conversation_is_answered_whole_and_in_pieces(call: Callable[[Call], Any]) -> None:
    said: dict[str, Any] = {
        "model": "texts",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0,
        "max_completion_tokens": 10,
    }
    whole = call(lambda client: client.chat.completions.create(**said))
    (choice,) = whole.choices
    assert (choice.message.role, choice.finish_reason, whole.object) == ("assistant", "length", "chat.completion")
    assert whole.usage.prompt_tokens == len("user: hi\nassistant:") + 1
    pieces = call(lambda client: client.chat.completions.create(**said, stream=True))
    assert "".join(piece.choices[0].delta.content for piece in pieces) == choice.message.content
    assert pieces[-1].choices[0].finish_reason == "length"
    older = call(lambda client: client.chat.completions.create(**{**said, "max_completion_tokens": None}, max_tokens=4))
    assert older.usage.completion_tokens == 4
    to_the_end = call(lambda client: client.chat.completions.create(**{**said, "max_completion_tokens": None}))
    assert to_the_end.usage.total_tokens == CONTEXT_LENGTH + 1


def test_models_lists_the_one_that_answers(call: Callable[[Call], Any]) -> None:
    (model,) = call(lambda client: client.models.list()).data
    assert (model.id, model.owned_by) == ("texts", "rayline")
    assert model.created > 1_700_000_000


def test_parity_asks_every_golden_prompt_that_leaves_room(
    language_model: LanguageModel, published_texts: tuple[Storage, RingSpec, str], texts: FastAPI, to: Any
) -> None:
    storage, spec, _ = published_texts
    asked = golden(spec, storage)
    room = {prompt: language_model.room_after(language_model.tokens_of(prompt)) for prompt, _ in language_model.golden}
    assert [each.body["prompt"] for each in asked if each.body] == [prompt for prompt in room if room[prompt] > 0]
    answers = [to(texts, "POST", each.path, json=each.body) for each in asked]
    assert {answer.status_code for answer in answers} == {200}


def test_what_does_not_fit_into_the_context_is_refused_with_both_numbers(call: Callable[[Call], Any]) -> None:
    fits = CONTEXT_LENGTH + 1 - len(BEGUN.encode()) - 1
    assert call(lambda client: likeliest(client, max_tokens=fits)).usage.completion_tokens == fits
    with pytest.raises(openai.UnprocessableEntityError, match=rf"is of 19 tokens, and {fits + 1} more in max_tokens"):
        call(lambda client: likeliest(client, max_tokens=fits + 1))
    messages: Any = [{"role": "user", "content": "a" * CONTEXT_LENGTH}]
    with pytest.raises(openai.UnprocessableEntityError, match="shorten it, or ask for fewer"):
        call(lambda client: client.chat.completions.create(model="texts", messages=messages))


def test_another_model_is_not_found(call: Callable[[Call], Any]) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4' here; this one is 'texts'"):
        call(lambda client: likeliest(client, model="gpt-4"))


def test_what_is_no_option_here_is_refused_by_name(call: Callable[[Call], Any]) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="#/logit_bias"):
        call(lambda client: likeliest(client, logit_bias={"50256": -100}))


def test_a_conversation_that_the_template_refuses_says_why(language_model: LanguageModel, to: Any) -> None:
    batch = language_model.opened(1)
    application = web(language_model, batch, "{{ raise_exception('only one turn') }}", 1000, "0123456789ab")
    body = {"model": "texts", "messages": [{"role": "user", "content": "hi"}]}
    answer = to(application, "POST", "/v1/chat/completions", json=body)
    batch.close()
    assert answer.status_code == 422
    assert "the chat template refuses them: only one turn" in answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("path", "asked", "slow"),
    [
        ("completions", {"prompt": [BEGUN, BEGUN]}, "serving.language_model.LanguageModel.tokens_of"),
        ("chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, "serving.language.prompt_of"),
    ],
)
def test_others_are_answered_while_a_prompt_is_read(
    texts: FastAPI, path: str, asked: dict[str, Any], slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, health_is_told = threading.Event(), threading.Event()
    at_once = LanguageModel.tokens_of if slow.endswith("tokens_of") else prompt_of

    def held(*given: Any) -> Any:
        begun.set()
        if not health_is_told.wait(60):
            raise TimeoutError("nobody else was answered")
        return at_once(*given)

    async def both() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(texts), base_url="http://test") as http:
            reading = asyncio.create_task(http.post(f"/v1/{path}", json={"model": "texts", "max_tokens": 3, **asked}))
            assert await asyncio.to_thread(begun.wait, 60)
            health = await http.get("/health")
            health_is_told.set()
            return health, await reading

    monkeypatch.setattr(slow, held)
    assert [answer.status_code for answer in asyncio.run(both())] == [200, 200]


@pytest.fixture(scope="module")
def served(cluster: Cluster, published_texts: tuple[Storage, RingSpec, str]) -> Iterator[tuple[str, RingSpec, Storage]]:
    storage, spec, _ = published_texts
    (port,) = kept_ports(1)
    spec = spec.model_copy(update={"serving": spec.serving.model_copy(update={"port": port})})
    yield deploy(spec, storage), spec, storage
    remove(spec.name)
    stop_if_idle()


@pytest.mark.ray
def test_texts_are_streamed_over_http_to_the_official_client(served: tuple[str, RingSpec, Storage]) -> None:
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as client:
        whole = client.completions.create(model="texts", prompt=BEGUN, temperature=0, max_tokens=20)
        assert whole.choices[0].text == GOES_ON[:20]
        stream = client.completions.create(model="texts", prompt=BEGUN, temperature=0, max_tokens=20, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == GOES_ON[:20]
        said: Any = [{"role": "user", "content": "hi"}]
        chat = client.chat.completions.create(model="texts", messages=said, max_completion_tokens=5, stream=True)
        assert [chunk.choices[0].finish_reason for chunk in chat][-1] == "length"


@pytest.mark.ray
def test_pieces_arrive_before_the_text_is_whole(served: tuple[str, RingSpec, Storage]) -> None:
    body = {"model": "texts", "prompt": BEGUN, "max_tokens": 40, "stream": True}
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", f"{served[0]}/v1/completions", json=body) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        arrived = [time.monotonic() for line in response.iter_lines() if line]
    assert len(arrived) > 20
    assert len(set(arrived)) > 5
    assert arrived[-1] > arrived[0]


@pytest.mark.ray
def test_a_client_that_hangs_up_leaves_room_for_others(served: tuple[str, RingSpec, Storage]) -> None:
    """More streams are left than a replica goes on with at a time."""
    body = {"model": "texts", "prompt": "", "max_tokens": CONTEXT_LENGTH, "stream": True}
    with httpx.Client(timeout=60) as client:
        for _ in range(20):
            with client.stream("POST", f"{served[0]}/v1/completions", json=body) as response:
                next(response.iter_lines())
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0, timeout=60) as client:
        answer = client.completions.create(model="texts", prompt=BEGUN, temperature=0, max_tokens=8)
    assert answer.choices[0].text == GOES_ON[:8]


@pytest.mark.ray
def test_the_three_questions_are_answered(served: tuple[str, RingSpec, Storage]) -> None:
    address, spec, storage = served
    for question in questions(spec, storage):
        status, answer = ask(address, question)
        assert status == 200, answer
