import pytest

from jobs.workloads.text_windows import BYTES
from serving.text_stream import TextStream


def told(stream: TextStream, text: bytes) -> list[str]:
    """What is shown after each byte, to the end or to a stop string."""
    found = []
    for byte in text:
        found.append(stream.add(byte))
        if stream.has_ended:
            return found
    return [*found, stream.rest()]


def test_a_character_is_shown_once_it_is_whole() -> None:
    assert told(TextStream(BYTES), "aß世".encode()) == ["a", "", "ß", "", "", "世", ""]


def test_bytes_that_are_no_text_are_shown_as_such_and_a_cut_character_is_left_out() -> None:
    assert told(TextStream(BYTES), b"a\xffb\xc3") == ["a", "�", "b", "", ""]


@pytest.mark.parametrize(
    ("stops", "text", "shown"),
    [
        (["."], "ab.c", "ab"),
        (["\n\n"], "a\nb\n\nc", "a\nb"),
        (["xyz", "yz"], "wxyz", "w"),
        (["yz", "xyz"], "wxyz", "w"),
        (["aab"], "aaab", "a"),
        (["ü"], "grün", "gr"),
    ],
)
def test_a_text_ends_before_its_first_stop_string(stops: list[str], text: str, shown: str) -> None:
    stream = TextStream(BYTES, stops)
    assert "".join(told(stream, text.encode())) == shown
    assert stream.has_ended


def test_what_looked_like_a_stop_string_is_shown_in_the_end() -> None:
    stream = TextStream(BYTES, ["END"])
    assert told(stream, b"aENbEN") == ["a", "", "", "ENb", "", "", "EN"]
    assert not stream.has_ended


def test_a_stop_string_may_begin_and_end_within_tokens() -> None:
    stream = TextStream((b"one ", b"sto", b"p two"), ["stop"])
    assert [stream.add(token) for token in (0, 1, 2)] == ["one ", "", ""]
    assert stream.has_ended


def test_a_token_that_ends_a_text_is_not_shown_and_what_was_held_back_is() -> None:
    stream = TextStream([*BYTES, b"<|im_end|>"], ["end."], ends=frozenset({257}))
    assert [stream.add(byte) for byte in b"the en"] == ["t", "h", "", "e ", "", ""]
    assert stream.add(257) == "en"
    assert stream.has_ended
