"""Our tokens by our own code and by the libraries that read `tokenizer.json`: the same numbers, the same text back."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from jobs.features.bpe import START
from jobs.features.split import SPLIT, TrainRows
from jobs.features.transform import Transform
from jobs.hugging_face_tokenizer import BEGIN, TOKENIZER, TOKENIZER_CONFIG, tokenizer_config, tokenizer_json
from jobs.spec import CHAT_TEMPLATE
from jobs.workloads import language
from jobs.workloads.language import LanguageSpec
from jobs.workloads.tokenizer import encoded, pieces_of
from tests.jobs.hugging_face_models import transformers

TEXT = "Grüße an alle: the cat sat on the mat, isn't it?\nThe other cat sat  there too. 12 of 345!"
BYTES, BPE = LanguageSpec(), LanguageSpec(tokenizer="bpe", vocabulary_size=320)


def transform_of(spec: LanguageSpec) -> Transform:
    documents = pa.table({"document": ["one"], "text": [TEXT * 3], SPLIT: ["train"]})
    return Transform(language.steps(spec)).fit([TrainRows(documents)])


FITTED = {"bytes": (BYTES, transform_of(BYTES)), "bpe": (BPE, transform_of(BPE))}
READ = {name: Tokenizer.from_str(tokenizer_json(*fitted)) for name, fitted in FITTED.items()}


@pytest.mark.parametrize("tokenizer", FITTED)
@given(text=st.one_of(st.text(), st.text(alphabet="the cat sn't\n 12,!ü")))
def test_every_text_has_the_same_numbers_and_comes_back_whole(tokenizer: str, text: str) -> None:
    theirs, ours = READ[tokenizer].encode(text).ids, encoded(FITTED[tokenizer][0], text, FITTED[tokenizer][1])
    assert theirs == ours
    assert READ[tokenizer].decode(theirs) == text


def test_what_was_learned_is_used() -> None:
    assert len(READ["bpe"].encode(TEXT).ids) < 0.6 * len(READ["bytes"].encode(TEXT).ids)
    assert [READ[name].get_vocab_size() for name in FITTED] == [257, len(pieces_of(*FITTED["bpe"]))]
    assert all(read.token_to_id(BEGIN) == START for read in READ.values())


def test_transformers_loads_it_from_a_folder(tmp_path: Path) -> None:
    spec, transform = FITTED["bpe"]
    (tmp_path / TOKENIZER).write_text(tokenizer_json(spec, transform))
    (tmp_path / TOKENIZER_CONFIG).write_text(tokenizer_config(spec, transform, CHAT_TEMPLATE))
    loaded: Any = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert loaded(TEXT).input_ids == encoded(spec, TEXT, transform)
    assert loaded.decode(loaded(TEXT).input_ids, skip_special_tokens=True) == TEXT
    assert (loaded.bos_token_id, loaded.model_max_length) == (START, 128)
    asked = loaded.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert asked == "user: Hi\nassistant:"
