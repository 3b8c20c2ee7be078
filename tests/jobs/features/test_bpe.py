import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from cluster.errors import DataError
from jobs.features import bpe
from jobs.features.bpe import START, Bpe
from tests.jobs.features.fitting import fitted, made, table, text

TEXTS = [
    "the cat sat on the mat",
    "the hat, the cat: Grüße aus 世界",
    None,
    "\n\n  cats\x00 hats",
    "that that is",
    "1234 12",
]
STEP = Bpe(column="text", output="tokens", vocabulary_size=290)


def rows(texts: list[str | None]) -> pa.Table:
    return table(text=text(texts))


LEARNED = fitted(STEP, rows(TEXTS * 3))


def by_hand(texts: list[str], num_merges: int) -> set[bytes]:
    """The pieces that are learned where no two pairs are equally frequent, by counting all pairs again for each."""
    words = Counter(word for given in texts for word in given.split())
    spelt = {word: [bytes([byte]) for byte in word.encode()] for word in words}
    learned: set[bytes] = set()
    for _ in range(num_merges):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, pieces in spelt.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        (left, right), _ = pairs.most_common(1)[0]
        assert sum(count == max(pairs.values()) for count in pairs.values()) == 1
        learned.add(left + right)
        for word, pieces in spelt.items():
            merged: list[bytes] = []
            for piece in pieces:
                if merged and (merged[-1], piece) == (left, right):
                    merged[-1] = left + right
                else:
                    merged.append(piece)
            spelt[word] = merged
    return learned


def test_the_pairs_that_are_most_frequent_are_learned() -> None:
    texts = ["abcd"] * 9 + ["ab"] * 5 + ["cd"] * 2 + ["bcx"] * 1
    step = fitted(STEP.model_copy(update={"vocabulary_size": 257 + 3}), rows(list(texts)))
    assert step.pieces[257:] == (b"ab", b"cd", b"abcd")
    assert set(step.pieces[257:]) == by_hand(texts, 3)


def test_tokens_are_those_of_the_library_trained_on_the_texts_themselves() -> None:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    reference = Tokenizer(models.BPE())
    reference.pre_tokenizer = words
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=289, min_frequency=1, show_progress=False, initial_alphabet=alphabet)
    known = [given for given in TEXTS * 3 if given]
    reference.train_from_iterator(known, trainer)
    for given in (*known, "unseen: ünïcödé the mats"):
        pieces = [bpe.spelt(LEARNED.pieces[token]) for token in LEARNED.encoded([given])[0]]
        assert pieces == reference.encode(given).tokens


@drawn(st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=6))
@settings(max_examples=60, deadline=None)
def test_every_text_comes_back_whole_and_a_row_gets_what_the_table_does(texts: list[str | None]) -> None:
    found = made(LEARNED, rows(texts))["tokens"]
    assert [LEARNED.decoded(tokens) for tokens in found] == [given or "" for given in texts]
    assert all(START not in tokens for tokens in found)


@drawn(st.lists(st.integers(0, 18), max_size=4))
@settings(max_examples=20, deadline=None)
def test_cuts_and_order_of_the_rows_change_nothing(cuts: list[int]) -> None:
    assert fitted(STEP, rows(TEXTS[::-1] * 3), cuts).state().equals(LEARNED.state())


def test_another_process_learns_the_same() -> None:
    code = (
        "from tests.jobs.features.test_bpe import LEARNED; print(LEARNED.state().to_pydict())"  # other seeds of hashes
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(LEARNED.state().to_pydict())


def test_the_text_of_a_special_token_is_text() -> None:
    for given in ("\n", "<|endoftext|>", "START"):
        assert LEARNED.decoded(LEARNED.encoded([given])[0]) == given


def test_words_below_min_count_are_not_learned_from() -> None:
    step = fitted(STEP.model_copy(update={"min_count": 3}), rows(["abab"] * 2 + ["cdcd"] * 3))
    assert step.pieces[257:] == (b"cd", b"cdcd")
    with pytest.raises(DataError, match=r"bpe of text: no word of the 1 .* min_count=4 times.*lower min_count"):
        fitted(STEP.model_copy(update={"min_count": 4}), rows(["abab"] * 2))


def test_more_words_than_are_fed_keep_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "NUM_WORDS_FED", 20)
    words = pa.table({"word": ["a", "b", "c"], "count": [1, 300, 100]})
    assert [fed.split() for fed in bpe._fed(words)] == [["a"], ["b"] * 14, ["c"] * 4]


def test_tokens_are_whole_numbers_and_the_vocabulary_is_no_larger_than_asked() -> None:
    assert LEARNED.apply(rows(TEXTS)).schema.field("tokens").type == pa.list_(pa.int32())
    assert len(LEARNED.pieces) == len(set(LEARNED.pieces)) == 290
    assert len(fitted(STEP, rows(["ab"])).pieces) == 258


def test_settings_and_state_make_an_equal_step_that_can_be_told() -> None:
    again = Bpe.model_validate(LEARNED.settings()).with_state(LEARNED.state())
    assert again == LEARNED
    assert again.encoded(TEXTS) == LEARNED.encoded(TEXTS)
    assert LEARNED.told().startswith("text: 290 tokens; the longest: ")
