"""The tagging application over HTTP's messages."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from serving.tagger import Tagger
from serving.tagging import MAX_TEXTS, build, questions, web
from tests.serving.tagged import TAG_OF, TaggedTexts

Send = Callable[..., httpx.Response]


@pytest.fixture
def ask(tagger: Tagger, to: Send) -> Send:
    application = web(tagger, 10_000, "0123456789ab")
    return lambda method, path, **options: to(application, method, path, **options)


def test_health_names_the_version_and_its_test_metrics(ask: Send, tagged_texts: TaggedTexts) -> None:
    answer = ask("GET", "/health").json()
    assert (answer["version"], answer["release"]) == (tagged_texts.version, "0123456789ab")
    assert set(answer["metrics"]) == {"accuracy", "macro_f1", "log_loss"}


def test_texts_are_answered_in_their_order_word_by_word(ask: Send, tagged_texts: TaggedTexts) -> None:
    answer = ask("POST", "/tag", json={"texts": ["  the cat ", "sail"]}).json()
    assert answer["version"] == tagged_texts.version
    assert [[(word["word"], word["tag"]) for word in words] for words in answer["texts"]] == [
        [("the", "DET"), ("cat", "NOUN")],
        [("sail", TAG_OF["sail"])],
    ]


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({}, "#/texts"),
        ({"texts": []}, "#/texts"),
        ({"texts": ["a", " \n"]}, "#/texts/1"),
        ({"texts": [3]}, "#/texts/0"),
        ({"texts": ["a"] * (MAX_TEXTS + 1)}, "#/texts"),
        ({"texts": ["a", "cat " * 40]}, "#/texts/1"),
        ({"texts": ["a"], "text": "b"}, "#/text"),
    ],
)
def test_what_cannot_be_tagged_is_a_problem_that_points_at_it(
    asked: dict[str, Any], pointer: str, ask: Send, problem_in: Callable[[httpx.Response, int], dict[str, Any]]
) -> None:
    content = problem_in(ask("POST", "/tag", json=asked), 422)
    assert [error["pointer"] for error in content["errors"]] == [pointer]


def test_the_questions_are_answered(tagged_texts: TaggedTexts, ask: Send) -> None:
    health, *others = questions(tagged_texts.spec, tagged_texts.storage)
    assert ask("GET", health.path).status_code == 200
    assert [len(ask("POST", other.path, json=other.body).json()["texts"]) for other in others] == [1, 5]
    assert build(tagged_texts.spec, tagged_texts.storage) is not None


def test_the_page_of_the_interface_names_the_tags(ask: Send) -> None:
    described = ask("GET", "/openapi.json").json()["info"]["description"]
    assert all(tag in described for tag in TAG_OF.values())
