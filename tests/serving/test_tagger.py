"""What a tagger answers, and that it answers as in training."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
import torch
from fastapi.exceptions import RequestValidationError

from cluster.errors import RegistryError
from cluster.registry import Registry
from jobs.version import Version, read
from serving.tagger import Tagger
from tests.serving.tagged import TAG_OF, TaggedTexts


@pytest.fixture
def content(tagged_texts: TaggedTexts) -> Version:
    with Registry(tagged_texts.storage, "tagging").open(tagged_texts.version) as folder:
        return read(folder)


def with_golden(content: Version, column: str, values: Any) -> Tagger:
    golden = content.golden
    place = golden.column_names.index(column)
    changed = golden.set_column(place, column, pa.array(values, golden.schema.field(column).type))
    return Tagger("v7", "", replace(content, golden=changed))


def test_every_word_gets_its_tag(tagger: Tagger) -> None:
    texts = ["the cat", "Grüße", "a ships   sail\n the"]
    answers = tagger.tag(texts)
    assert [[word.word for word in words] for words in answers] == [text.split() for text in texts]
    assert [[word.tag for word in words] for words in answers] == [
        [TAG_OF[word] for word in text.split()] for text in texts
    ]
    assert all(0.5 < word.probability <= 1 for words in answers for word in words)


def test_a_text_that_is_not_read_whole_is_refused_with_the_number_of_words(tagger: Tagger) -> None:
    with pytest.raises(RequestValidationError) as refused:
        tagger.tag(["the cat", "cat " * 40])
    (error,) = refused.value.errors()
    assert error["loc"] == ("body", "texts", 1)
    assert error["msg"].startswith("has 40 words, of which the first 15 are what the model reads, 16 tokens; send it")


def test_golden_texts_that_are_answered_otherwise_are_refused(content: Version) -> None:
    Tagger("v7", "", content).check_golden()
    shares = content.golden.column("probabilities").to_pylist()
    shares[2][0] -= 0.01
    with pytest.raises(
        RegistryError, match=r"version v7 answers '\S+' of the golden text \d+ unlike it did in training"
    ):
        with_golden(content, "probabilities", shares).check_golden()
    tags = content.golden.column("predicted").to_pylist()
    tags[1][0] = "VERB" if tags[1][0] != "VERB" else "DET"
    with pytest.raises(RegistryError, match=r"unlike it did in training: \w+ with 0\.\d+, was (VERB|DET) with 0\.\d+"):
        with_golden(content, "predicted", tags).check_golden()
    with torch.no_grad():
        next(content.model.parameters()).fill_(float("nan"))
    with pytest.raises(RegistryError, match="with nan"):
        Tagger("v7", "", content).check_golden()
