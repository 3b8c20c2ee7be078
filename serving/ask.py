"""Questions to a running application over real HTTP: what `--once` asks, and the line a user can try."""

import http.client
import json
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cluster.errors import ClusterError

REQUEST_TIMEOUT_S = 60.0
"""What Serve gives a request."""
TIMEOUT_S = REQUEST_TIMEOUT_S + 5
"""A little more, so that Serve's answer is heard."""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Heeds no http_proxy: what is asked is this machine or the cluster, and an operator's pass is for nobody else."""


@dataclass(frozen=True)
class Question:
    """One request: a GET, or a POST where it has a body."""

    title: str
    path: str
    body: Mapping[str, Any] | None = None

    def curl(self, address: str) -> str:
        """The same request as a shell line."""
        if self.body is None:
            return f"curl {address}{self.path}"
        body = shlex.quote(json.dumps(self.body))
        return f"curl {address}{self.path} -H 'Content-Type: application/json' -d {body}"


def ask(
    address: str, question: Question, timeout_s: float = TIMEOUT_S, headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, Any]:
    """The status and the JSON of the answer; the answer's text where it is no JSON.

    Raises:
        OSError: nothing answers at `address`, or what answers breaks off in the middle.
    """
    data = None if question.body is None else json.dumps(question.body).encode()
    request = urllib.request.Request(f"{address}{question.path}", data, {"Content-Type": "application/json", **headers})
    try:
        try:
            with DIRECT.open(request, timeout=timeout_s) as response:
                return response.status, _content(response.read())
        except urllib.error.HTTPError as error:
            return error.code, _content(error.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"the answer to {request.full_url} broke off: {error!r}") from error


@contextmanager
def answers_expected(address: str) -> Iterator[None]:
    """Say what to do where an application at `address` gives no answer.

    Raises:
        ClusterError: for an OSError.
    """
    try:
        yield
    except OSError as error:
        raise ClusterError(
            f"nothing answers at {address} ({error}); start the application first: python -m serving.app SPEC; where "
            "it runs, a replica may have ended just then: try again"
        ) from None


def _content(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
