"""Parity: whether a version answers over HTTP as it does in this process, where its golden rows were replayed.

What is asked is what an application's `golden` names: where it can be, each golden row by itself.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from starlette.types import ASGIApp

from cluster.errors import ReleaseError
from serving.ask import Question, ask
from serving.differences import differences
from serving.in_process import answer_of
from serving.live_versions import VERSION
from serving.published import TOLERANCE


def check_parity(
    address: str,
    version: str,
    application: ASGIApp,
    questions: Sequence[Question],
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Ask the version that runs at `address` everything, and compare.

    Args:
        headers: that let the requests pass.

    Raises:
        ReleaseError: an answer differs; the message has the row, the place in the answer and both values.
        OSError: nothing answers at `address`.
    """
    for question in questions:
        expected = answer(application, question)
        given = ask(address, question, headers={**headers, VERSION: version})
        for place, here, there in differences(expected[1], given[1]):
            raise ReleaseError(
                f"version {version} answers {question.title} unlike it does where it was loaded by itself: {place} is "
                f"{there!r}, was {here!r}, and may differ by {TOLERANCE:g}. The traffic stays as it was; look at the "
                "replicas' packages and code"
            )
        if expected[0] != given[0]:
            raise ReleaseError(f"version {version} answers {question.title} with {given[0]}, expected {expected[0]}")


def answer(application: ASGIApp, question: Question) -> tuple[int, Any]:
    """What an application in this process answers: the status, and JSON."""
    body = None if question.body is None else json.dumps(question.body).encode()
    status, content = answer_of(application, question.path, body)
    return status, json.loads(content)
