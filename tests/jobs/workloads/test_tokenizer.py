"""The tokenizers that a spec may name. Those of a folder: `tests/jobs/test_hugging_face_tokenizer.py`."""

from typing import Any

import pyarrow as pa
import pytest

from jobs.features.bpe import NUM_TOKENS, START
from jobs.features.split import SPLIT, TrainRows
from jobs.features.transform import Transform
from jobs.workloads.language import LanguageSpec
from jobs.workloads.tokenizer import TOKENS, TokenizerSpec, encoded, ends_of, pieces_of, token_steps, tokenizer_of

TEXT = "Grüße, all the cats sat on the mats"


@pytest.mark.parametrize("given", [{"tokenizer": "folder"}, {"tokenizer": "bpe", "tokenizer_folder": "/hub/qwen"}])
def test_a_folder_goes_with_its_tokenizer_alone(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"with tokenizer_folder='.*': tokenizer=folder takes the path or URI"):
        TokenizerSpec(**given)


def test_bytes_need_no_step() -> None:
    spec = LanguageSpec(tokenizer="bytes")
    assert token_steps(spec) == ()
    assert tokenizer_of(spec, Transform(())) is None
    assert encoded(spec, "aß", Transform(())) == [START, 97, 195, 159]
    assert len(pieces_of(spec, Transform(()))) == NUM_TOKENS


def test_learned_tokens_stand_for_the_text() -> None:
    spec = LanguageSpec(tokenizer="bpe", vocabulary_size=270)
    rows = TrainRows(pa.table({"text": [TEXT] * 3, SPLIT: ["train"] * 3}))
    transform = Transform(token_steps(spec)).fit([rows])
    tokens = encoded(spec, TEXT, transform)
    assert tokens[0] == START
    assert len(tokens) < len(TEXT.encode())
    assert b"".join(pieces_of(spec, transform)[token] for token in tokens[1:]) == TEXT.encode()
    assert transform.apply(rows.table).column(TOKENS).to_pylist() == [tokens[1:]] * 3
    assert ends_of(spec, transform) == frozenset()
