"""Words find their tokens: checked against the pieces of text that the tokens stand for."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.features.bpe import Bpe
from jobs.features.first_tokens import FirstTokens
from jobs.features.split import TrainRows
from jobs.features.word_places import WordPlaces

LEARNED_ON = ["Grüße aus der Küche, it's 1234 o'clock", "the cat sat on the mat", "the mats the cats"]


def fitted() -> Bpe:
    rows = TrainRows(pa.table({"text": LEARNED_ON, "split": ["train"] * 3}))
    unfitted = Bpe(column="text", output="tokens", vocabulary_size=300, ends_output="ends")
    return unfitted.fitted(unfitted.merge([unfitted.statistics(rows)]))


BPE = fitted()


@given(st.text(st.sampled_from("the cat'sü😀1234,.\n\t\u00a0 ")))
def test_the_token_of_a_word_has_its_first_character(text: str) -> None:
    row = {"text": text}
    row |= BPE.apply_row(row)
    tokens = row["tokens"]
    places = WordPlaces(column="text", ends="ends", output="place", num_tokens=1000).apply_row(row)["place"]
    words = text.split()
    assert len(places) == len(words)
    bytes_before = [len(b"".join(BPE.pieces[token] for token in tokens[:place])) for place in range(len(tokens) + 1)]
    begin = 0
    for word, place in zip(words, places, strict=True):
        begin = text.index(word, begin)
        first_byte = len(text[:begin].encode())
        assert bytes_before[place - 1] <= first_byte < bytes_before[place]
        begin += len(word)


@pytest.mark.parametrize("num_tokens", [2, 4, 100])
def test_a_place_is_one_of_what_is_read_and_late_words_have_none(num_tokens: int) -> None:
    row = {"text": "the cat sat on the mat"}
    row |= BPE.apply_row(row)
    read = FirstTokens(column="tokens", output="read", num_tokens=num_tokens).apply_row(row)["read"]
    places = WordPlaces(column="text", ends="ends", output="place", num_tokens=num_tokens).apply_row(row)["place"]
    assert [BPE.pieces[read[place]].strip()[:1] for place in places if place] == [
        word[0].encode() for word, place in zip(row["text"].split(), places, strict=True) if place
    ]
    assert places == sorted(places, key=lambda place: (place == 0, place))
    assert (0 in places) == (num_tokens < 100)


def test_a_missing_text_has_no_words() -> None:
    step = WordPlaces(column="text", ends="ends", output="place", num_tokens=9)
    table = pa.table({"text": pa.array([None], pa.string()), "ends": pa.array([None], pa.list_(pa.int32()))})
    assert step.apply(table).column("place").to_pylist() == [[]]
    assert step.apply_row({"text": None, "ends": None}) == {"place": []}
