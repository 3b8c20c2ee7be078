import numpy as np
import pyarrow as pa
import pytest

from jobs.features.row_hash import as_shares, row_hashes, text_hash

TEXTS = ["", "a", "b", "ab", "ba", "12345678", "123456789", "12345678\0", "é", "e\u0301", "😀" * 5, "x" * 1000, None]
MASK = 2**64 - 1


def by_hand(values: list[str | None]) -> int:
    """The definition in plain integers, byte by byte."""

    def mix(number: int) -> int:
        number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK
        number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK
        return number ^ number >> 31

    found = 0
    for value in values:
        content = (value or "").encode()
        found = mix(found + 0x9E3779B97F4A7C15 * (1 if value is None else len(content) + 2) & MASK)
        for start in range(0, len(content), 8):
            word = int.from_bytes(content[start : start + 8], "little")
            found = mix((found ^ word) + 0x9E3779B97F4A7C15 & MASK)
    return found


def hashes(*columns: list[str | None]) -> list[int]:
    found: list[int] = row_hashes([pa.chunked_array([pa.array(column, pa.string())]) for column in columns]).tolist()
    return found


def test_the_mixing_is_that_of_splitmix64() -> None:
    """Its first outputs for the seed 1234567, as the reference implementation prints them."""
    state, outputs = 1234567, []
    for _ in range(2):
        state = state + 0x9E3779B97F4A7C15 & MASK
        number = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK
        outputs.append(number ^ number >> 31)
    assert outputs == [6457827717110365317, 3203168211198807973]


def test_every_text_has_the_hash_of_its_definition() -> None:
    assert hashes(TEXTS) == [by_hand([text]) for text in TEXTS]
    assert hashes(TEXTS, TEXTS[::-1]) == [by_hand([one, two]) for one, two in zip(TEXTS, TEXTS[::-1], strict=True)]


def test_one_text_has_the_hash_of_a_row() -> None:
    assert [text_hash(text) for text in TEXTS] == hashes(TEXTS)


def test_different_rows_have_different_hashes() -> None:
    rows = [(one, two) for one in TEXTS for two in TEXTS]
    found = hashes([one for one, _ in rows], [two for _, two in rows])
    assert len(set(found)) == len(rows)


@pytest.mark.parametrize("cut", [0, 1, 5, len(TEXTS)])
def test_slices_and_chunks_do_not_matter(cut: int) -> None:
    whole = pa.array(["before", *TEXTS, "after"], pa.string()).slice(1, len(TEXTS))
    chunked = pa.chunked_array([whole.slice(0, cut), whole.slice(cut)])
    assert row_hashes([chunked]).tolist() == hashes(TEXTS)


def test_numbers_count_by_their_text() -> None:
    assert row_hashes([pa.chunked_array([[1, 22, None]])]).tolist() == hashes(["1", "22", None])


def test_shares_are_even() -> None:
    shares = as_shares(row_hashes([pa.chunked_array([[f"r{n}" for n in range(100_000)]])]))
    counts, _ = np.histogram(shares, 20, (0, 1))
    assert shares.min() >= 0
    assert shares.max() < 1
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-square of 19 degrees of freedom, one in a thousand


def test_no_rows_have_no_hashes() -> None:
    assert row_hashes([pa.chunked_array([], pa.string())]).tolist() == []
