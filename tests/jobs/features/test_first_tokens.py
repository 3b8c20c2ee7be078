import pyarrow as pa
import pytest

from jobs.features.bpe import START
from jobs.features.first_tokens import FirstTokens

OF_BYTES = FirstTokens(column="text", output="read", num_tokens=5, of_bytes=True)
OF_TOKENS = FirstTokens(column="tokens", output="read", num_tokens=4)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("ab", [START, 97, 98, START, START]),
        ("abcdefg", [START, 97, 98, 99, 100]),
        ("ü", [START, 0xC3, 0xBC, START, START]),
        (None, [START] * 5),
    ],
)
def test_a_text_is_read_from_its_beginning_and_filled_up(text: str | None, read: list[int]) -> None:
    assert OF_BYTES.apply_row({"text": text}) == {"read": read}
    table = OF_BYTES.apply(pa.table({"text": pa.array([text], pa.string())}))
    assert table.column("read").to_pylist() == [read]
    assert table.column("read").type == pa.list_(pa.int32())


def test_tokens_are_taken_as_they_are() -> None:
    tokens = pa.array([[300, 1, 2, 3, 4], [], None], pa.list_(pa.int32()))
    expected = [[START, 300, 1, 2], [START] * 4, [START] * 4]
    assert OF_TOKENS.apply(pa.table({"tokens": tokens})).column("read").to_pylist() == expected
    assert OF_TOKENS.apply_row({"tokens": [300.0]}) == {"read": [START, 300, START, START]}
    assert OF_TOKENS.length == 4
