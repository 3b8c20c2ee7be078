from typing import Any

import pytest
from pydantic import ValidationError

from serving.chat_format import ChatRequest, CompletionRequest
from serving.sampling import Sampling


def completion(**given: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "texts", **given})


def test_one_prompt_or_stop_string_is_a_list_of_one() -> None:
    assert completion(prompt="a", stop="b").prompts == ["a"]
    assert completion(prompt="a", stop="b").stops == ["b"]
    assert completion(prompt=["a", "c"], stop=["b", "d"]).prompts == ["a", "c"]
    assert completion(prompt=["a", "c"], stop=["b", "d"]).stops == ["b", "d"]
    assert completion().prompts == [""]
    assert completion().stops == []


def test_each_text_of_a_request_has_a_seed_of_its_own() -> None:
    given = completion(temperature=0.5, top_p=0.9, frequency_penalty=1, presence_penalty=-1, seed=2**63 - 1)
    assert given.sampling(0) == Sampling(0.5, 0.9, 1.0, -1.0, 2**63 - 1)
    assert given.sampling(3) == Sampling(0.5, 0.9, 1.0, -1.0, 2)
    assert completion().sampling(3) == Sampling()


def test_a_stream_counts_its_tokens_where_it_is_asked_to() -> None:
    assert not completion(stream=True).counts_in_stream
    assert completion(stream=True, stream_options={"include_usage": True}).counts_in_stream


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"presence_penalty": float("-inf")}, "presence_penalty"),
        ({"n": 17}, "n"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 33}, "prompt"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 1}, "logprobs"),
    ],
)
def test_what_cannot_be_done_is_refused(given: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as raised:
        completion(**given)
    assert raised.value.errors()[0]["loc"][0] == place


def test_a_turn_is_of_somebody_who_takes_part() -> None:
    for messages in ([], [{"role": "tool", "content": "a"}], [{"role": "user"}]):
        with pytest.raises(ValidationError):
            ChatRequest.model_validate({"model": "texts", "messages": messages})
