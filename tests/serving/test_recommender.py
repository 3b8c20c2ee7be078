import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from cluster.errors import RegistryError
from cluster.registry import Registry
from cluster.storage import Storage
from serving.recommendation import Recommendations
from serving.recommender import build, golden, questions

Send = Callable[..., httpx.Response]
ProblemIn = Callable[[httpx.Response, int], dict[str, Any]]
JSON = {"content-type": "application/json"}
RATING = {"user_id": "1", "item_id": "m2", "rating": 4.5}


def events(storage: Storage) -> list[dict[str, Any]]:
    files = [storage.read(str(info.path).removeprefix(storage.path("") + "/")) for info in storage.files("feedback")]
    return [json.loads(line) for content in files for line in content.splitlines()]


def test_health_names_the_version_and_its_test_metrics(send: Send, published: Any) -> None:
    answer = send("GET", "/health").json()
    assert answer["version"] == published.version
    assert answer["created_at"].startswith("20")
    assert set(answer["metrics"]) == {"ndcg_at_10", "hit_rate_at_10", "rmse"}


def test_a_known_user_gets_items_with_reasons(send: Send, published: Any) -> None:
    response = send("POST", "/recommend", json={"user_id": "1", "k": 7})
    answer = response.json()
    assert response.status_code == 200
    assert (answer["user_id"], answer["version"], answer["cold_start"]) == ("1", published.version, False)
    assert len(answer["items"]) == 7
    assert set(answer["items"][0]) == {"item_id", "title", "genres", "score", "reason"}
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)


def test_a_number_is_the_same_user_as_its_text(send: Send) -> None:
    as_number = send("POST", "/recommend", json={"user_id": 7}).json()
    as_text = send("POST", "/recommend", json={"user_id": "7"}).json()
    assert as_number == as_text
    assert as_number["user_id"] == "7"


def test_an_unknown_user_gets_a_flagged_cold_start(send: Send) -> None:
    answer = send("POST", "/recommend", json={"user_id": "nobody", "k": 3}).json()
    assert answer["cold_start"] is True
    assert {item["reason"] for item in answer["items"]} == {"popular with all users"}


def test_excluded_items_are_left_out_and_unknown_ones_passed_over(send: Send) -> None:
    first = send("POST", "/recommend", json={"user_id": "1", "k": 2}).json()["items"]
    left_out = [item["item_id"] for item in first]
    again = send("POST", "/recommend", json={"user_id": "1", "k": 100, "exclude": [*left_out, "no such item", 5]})
    assert again.status_code == 200
    assert not set(left_out) & {item["item_id"] for item in again.json()["items"]}


def test_feedback_is_on_disk_when_it_is_acknowledged(send: Send, storage: Storage, published: Any) -> None:
    response = send("POST", "/feedback", json={**RATING, "event_id": "e-1", "timestamp": 1_700_000_000})
    assert response.status_code == 202
    assert response.json() == {"event_id": "e-1", "timestamp": 1_700_000_000}
    [event] = events(storage)
    assert event.pop("received_at").startswith("20")
    expected = {**RATING, "event_id": "e-1", "timestamp": 1_700_000_000, "version": published.version}
    assert event == {**expected, "prediction_id": ""}


def test_feedback_without_id_or_time_is_given_both(send: Send, storage: Storage) -> None:
    answers = [send("POST", "/feedback", json=RATING).json() for _ in range(2)]
    assert [event["event_id"] for event in events(storage)] == [answer["event_id"] for answer in answers]
    assert answers[0]["event_id"] != answers[1]["event_id"]
    assert answers[0]["timestamp"] > 1_700_000_000


BAD_RECOMMEND = {
    "k of 0": {"user_id": "1", "k": 0},
    "k of -1": {"user_id": "1", "k": -1},
    "k of a billion": {"user_id": "1", "k": 10**9},
    "k as text": {"user_id": "1", "k": "5"},
    "k as float": {"user_id": "1", "k": 5.0},
    "k as bool": {"user_id": "1", "k": True},
    "k null": {"user_id": "1", "k": None},
    "k of 4000 digits": {"user_id": "1", "k": 10**4000},
    "unknown field": {"user_id": "1", "limit": 5},
    "field with half a surrogate pair": {"user_id": "1", "\ud800": 5},
    "field of 50,000 characters": {"user_id": "1", "x" * 50_000: 5},
    "1000 unknown fields": {"user_id": "1", **{f"x{i}": 5 for i in range(1000)}},
    "no user": {"k": 5},
    "user null": {"user_id": None},
    "user empty": {"user_id": ""},
    "user blank": {"user_id": " \t"},
    "user too long": {"user_id": "u" * 257},
    "user a float": {"user_id": 1.5},
    "user a bool": {"user_id": True},
    "user a list": {"user_id": ["1"]},
    "user an object": {"user_id": {"$ne": ""}},
    "user of 4000 digits": {"user_id": 10**4000},
    "user half a surrogate pair": {"user_id": "\ud83d"},
    "exclude not a list": {"user_id": "1", "exclude": "m1"},
    "exclude too long": {"user_id": "1", "exclude": ["m1"] * 1001},
    "exclude of objects": {"user_id": "1", "exclude": [{}]},
    "a list": [],
    "a text": "user_id",
    "a number": 5,
    "null": None,
    "nothing": {},
}


@pytest.mark.parametrize("body", BAD_RECOMMEND.values(), ids=BAD_RECOMMEND.keys())
def test_recommend_refuses_with_422(send: Send, problem_in: ProblemIn, body: Any) -> None:
    content = json.dumps(body).encode()
    problem = problem_in(send("POST", "/recommend", content=content, headers=JSON), 422)
    assert problem["errors"]
    assert len(problem["errors"]) <= 20


BAD_FEEDBACK = {
    "rating too low": {**RATING, "rating": 0.4},
    "rating too high": {**RATING, "rating": 5.5},
    "rating NaN": {**RATING, "rating": float("nan")},
    "rating infinite": {**RATING, "rating": float("inf")},
    "rating as text": {**RATING, "rating": "4"},
    "rating as bool": {**RATING, "rating": True},
    "rating missing": {"user_id": "1", "item_id": "m2"},
    "rating of 400 digits": {**RATING, "rating": 10**400},
    "no item": {"user_id": "1", "rating": 4},
    "event id empty": {**RATING, "event_id": ""},
    "event id too long": {**RATING, "event_id": "e" * 257},
    "time negative": {**RATING, "timestamp": -1},
    "time in milliseconds": {**RATING, "timestamp": 1_700_000_000_000},
    "time as text": {**RATING, "timestamp": "2024-01-01"},
    "time a float": {**RATING, "timestamp": 1.5},
    "unknown field": {**RATING, "comment": "great"},
}


@pytest.mark.parametrize("body", BAD_FEEDBACK.values(), ids=BAD_FEEDBACK.keys())
def test_feedback_refuses_with_422_and_writes_nothing(
    send: Send, problem_in: ProblemIn, storage: Storage, body: Any
) -> None:
    problem_in(send("POST", "/feedback", content=json.dumps(body).encode(), headers=JSON), 422)
    assert not storage.files("feedback")


NO_JSON = {
    "cut off": b'{"user_id": "1"',
    "words": b"user_id=1",
    "not UTF-8": b'{"user_id": "\xff\xfe"}',
    "nested too deep": b"[" * 90_000,
    "objects nested too deep": b'{"user_id":' * 9_000,
    "a number of too many digits": b'{"user_id": "1", "k": 1' + b"0" * 5000 + b"}",
    "two values": b'{"user_id": "1"} {}',
    "a comma too many": b'{"user_id": "1",}',
    "zero bytes": b"\x00" * 100,
}


@pytest.mark.parametrize("content", NO_JSON.values(), ids=NO_JSON.keys())
@pytest.mark.parametrize("path", ["/recommend", "/feedback"])
def test_what_is_no_json_is_refused_with_400(send: Send, problem_in: ProblemIn, path: str, content: bytes) -> None:
    problem_in(send("POST", path, content=content, headers=JSON), 400)


@pytest.mark.parametrize("depth", [50, 200, 500, 800, 900, 950, 990, 1100])
def test_no_depth_of_nesting_is_a_server_error(send: Send, depth: int) -> None:
    content = b'{"user_id": "1", "exclude": ' + b"[" * depth + b"]" * depth + b"}"
    assert send("POST", "/recommend", content=content, headers=JSON).status_code in (400, 422)


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}, {"content-type": "multipart/form-data"}])
def test_another_content_type_is_refused(send: Send, problem_in: ProblemIn, headers: dict[str, str]) -> None:
    problem = problem_in(send("POST", "/recommend", content=b'{"user_id": "1"}', headers=headers), 422)
    assert "application/json" in problem["errors"][0]["detail"]


def test_an_empty_body_is_refused(send: Send, problem_in: ProblemIn) -> None:
    problem_in(send("POST", "/recommend", headers=JSON), 422)


def test_a_body_of_10_megabytes_is_refused(send: Send, problem_in: ProblemIn) -> None:
    problem_in(send("POST", "/recommend", content=b" " * 10_000_000, headers=JSON), 413)


def test_wrong_paths_and_methods_are_problems(send: Send, problem_in: ProblemIn) -> None:
    problem_in(send("GET", "/nowhere"), 404)
    problem_in(send("GET", "/health/"), 404)
    problem_in(send("GET", "/%ff%00"), 404)
    problem_in(send("DELETE", "/health"), 405)
    response = send("GET", "/recommend")
    assert "POST" in problem_in(response, 405)["detail"]
    assert response.headers["allow"] == "POST"


def test_a_fault_is_pointed_at_with_its_value_and_rule(send: Send, problem_in: ProblemIn) -> None:
    problem = problem_in(send("POST", "/recommend", json={"user_id": "1", "k": 0, "exclude": ["a", 1.5]}), 422)
    assert problem["errors"] == [
        {"pointer": "#/k", "detail": "input should be greater than or equal to 1, got 0"},
        {"pointer": "#/exclude/1", "detail": "input should be a valid string, got 1.5"},
    ]
    low = problem_in(send("POST", "/feedback", json={**RATING, "rating": 0}), 422)
    assert low["errors"] == [{"pointer": "#/rating", "detail": "rating must be from 0.5 to 5, got 0.0"}]


def test_openapi_tells_of_ids_bounds_and_problems(send: Send) -> None:
    document = send("GET", "/openapi.json").json()
    asked = document["components"]["schemas"]["RecommendRequest"]["properties"]
    assert {each["type"] for each in asked["user_id"]["anyOf"]} == {"string", "integer"}
    assert (asked["k"]["minimum"], asked["k"]["maximum"]) == (1, 100)
    assert "application/problem+json" in document["paths"]["/recommend"]["post"]["responses"]["4XX"]["content"]
    assert send("GET", "/docs").status_code == 200


def test_build_refuses_an_unknown_version(published: Any) -> None:
    serving = published.spec.serving.model_copy(update={"version": "champoin"})
    spec = published.spec.model_copy(update={"serving": serving})
    with pytest.raises(
        RegistryError, match=r"'champoin' is no version or alias of 'recommender'\. Did you mean 'champ"
    ):
        build(spec, published.storage)


def test_the_questions_ask_of_a_known_and_an_unknown_user(send: Send, published: Any) -> None:
    answers = [
        send("POST" if question.body else "GET", question.path, json=question.body).json()
        for question in questions(published.spec, published.storage)
    ]
    assert answers[0]["status"] == "ok"
    assert [answer["cold_start"] for answer in answers[1:]] == [False, True]


def test_parity_asks_every_golden_user(send: Send, published: Any) -> None:
    users = Recommendations.load(Registry(published.storage, published.spec.name), published.version).golden_users
    asked = golden(published.spec, published.storage)
    answers = [send("POST", question.path, json=question.body).json() for question in asked]
    assert [answer["user_id"] for answer in answers] == users
    assert {answer["cold_start"] for answer in answers} == {False, True}


def test_the_docs_page_needs_nothing_from_elsewhere(send: Callable[..., httpx.Response]) -> None:
    page = send("GET", "/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/"), link
        assert send("GET", link).status_code == 200
