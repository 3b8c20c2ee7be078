import pytest

from cluster.retrying import is_away, patience, patiently

S3_AWAY = "When reading information for key 'a': AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7"


class Server:
    """Away for some calls."""

    def __init__(self, num_away: int) -> None:
        self.num_away = num_away
        self.num_calls = 0

    def ask(self) -> str:
        self.num_calls += 1
        if self.num_calls <= self.num_away:
            raise ConnectionRefusedError("Connection refused")
        return "answer"


def test_a_call_is_repeated_until_the_server_answers() -> None:
    server = Server(2)
    assert patiently(server.ask) == "answer"
    assert server.num_calls == 3


def test_patience_ends_with_one_line_that_says_how_long_also_when_nested(pauses: list[float]) -> None:
    with patience(0.3), pytest.raises(TimeoutError, match=r"^no answer, tried for \d s: Connection refused$"):
        patiently(lambda: patiently(Server(1000).ask))
    assert 0 < sum(pauses) <= 0.3


def test_what_waiting_does_not_mend_is_raised_at_once() -> None:
    for error in (FileNotFoundError("a"), PermissionError("b"), OSError("AWS Error ACCESS_DENIED during PutObject")):
        with pytest.raises(type(error)):
            patiently(lambda error=error: (_ for _ in ()).throw(error))
        assert not is_away(error)


def test_errors_of_s3_are_told_apart_by_their_text() -> None:
    assert is_away(OSError(S3_AWAY))
    assert is_away(OSError("AWS Error UNKNOWN (HTTP status 503) during GetObject operation"))
    assert not is_away(OSError("AWS Error UNKNOWN (HTTP status 400) during GetObject operation"))
