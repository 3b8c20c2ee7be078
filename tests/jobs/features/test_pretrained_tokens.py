"""Tokens of a tokenizer from elsewhere beside the library's own."""

import json

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models

from cluster.errors import DataError
from jobs.features.bpe import START
from jobs.features.pretrained_tokens import PretrainedTokens
from tests.jobs.features.byte_level import BEGIN, TURN, tokenizer_json

TEXTS = ["the cat sat on the mat, and the mat was the cat's", "Grüße, 世界! \r\n  12 345", "", "a" * 40]
CONTENT = tokenizer_json(TEXTS * 3)
THEIRS = Tokenizer.from_str(CONTENT)
SIZE = THEIRS.get_vocab_size()
BEGINS, ENDS = SIZE - 2, SIZE - 1
UNFITTED = PretrainedTokens(column="text", output="tokens", folder="/hub/qwen", vocabulary_size=512)
STEP = UNFITTED.with_tokenizer(CONTENT, BEGINS, [BEGINS, ENDS])


def theirs(text: str) -> list[int]:
    """The library's numbers, where the token that begins a document and 256 have changed places."""
    swap = {BEGINS: START, START: BEGINS}
    return [swap.get(number, number) for number in THEIRS.encode(text, add_special_tokens=False).ids]


@pytest.mark.parametrize("text", [*TEXTS, "unseen: ünïcödé", f"one{BEGIN}two{TURN}", THEIRS.id_to_token(START)])
def test_tokens_are_those_of_the_library_with_the_first_one_at_start(text: str) -> None:
    assert STEP.encoded([text]) == [theirs(text)]
    assert STEP.apply_row({"text": text}) == {"tokens": theirs(text)}


def test_a_missing_text_has_no_tokens() -> None:
    table = STEP.apply(pa.table({"text": pa.array(["cat", None])}))
    assert table.column("tokens").to_pylist() == [theirs("cat"), []]


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_of_a_text_are_its_bytes(text: str) -> None:
    assert b"".join(STEP.pieces[token] for token in STEP.encoded([text])[0]) == text.encode()


def test_the_token_that_begins_is_no_text_and_the_one_that_ends_a_turn_is_told() -> None:
    assert STEP.pieces[START] == b""
    assert STEP.pieces[ENDS] == TURN.encode()
    assert STEP.begin_name == BEGIN
    assert STEP.ends == {START, ENDS}
    assert STEP.their_ends == [BEGINS, ENDS]
    assert len(STEP.pieces) == SIZE
    assert STEP.told() == f"text: {SIZE} tokens of /hub/qwen"


def test_what_is_kept_makes_the_same_step_without_the_folder() -> None:
    again = PretrainedTokens(**UNFITTED.settings()).with_state(STEP.state())
    assert again.encoded(TEXTS) == STEP.encoded(TEXTS)
    assert (again.tokenizer, again.ends) == (CONTENT, STEP.ends)


def changed(**model: object) -> str:
    content = json.loads(CONTENT)
    content["model"] |= model
    return json.dumps(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"^/hub/qwen/tokenizer.json cannot be read: .*; only byte-level BPE is read"),
        (Tokenizer(models.WordLevel({"a": 0}, "a")).to_str(), r"is a WordLevel whose decoder is null; only"),
        (json.dumps(json.loads(CONTENT) | {"decoder": {"type": "Fuse"}}), r"is a BPE whose decoder is .*Fuse"),
        (changed(vocab=json.loads(CONTENT)["model"]["vocab"] | {"▁cat": 500}), r"has the token '▁cat', which is no"),
    ],
)
def test_other_tokenizers_are_refused(content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        UNFITTED.with_tokenizer(content, BEGINS, [])


def test_a_token_that_is_not_there_cannot_begin_a_document() -> None:
    with pytest.raises(DataError, match=r"config.json names the token 9999 as one that begins or ends a text, which"):
        UNFITTED.with_tokenizer(CONTENT, 9999, [])


def test_more_tokens_than_there_is_room_for_are_refused() -> None:
    small = PretrainedTokens(column="text", output="tokens", folder="/hub/qwen", vocabulary_size=270)
    with pytest.raises(DataError, match=rf"up to number {SIZE - 1}, more than vocabulary_size=270 has room for; give"):
        small.with_tokenizer(CONTENT, BEGINS, [])
