"""The files that steps need: where they lie, and what is told where they do not."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import DataError
from cluster.storage import Storage
from jobs.features.pretrained_tokens import PretrainedTokens
from jobs.features.scaling import Scaling
from jobs.features.transform import Transform
from jobs.step_files import file_digests, with_files
from tests.jobs.features.byte_level import tokenizer_json

CONTENT = tokenizer_json(["the cat sat on the mat"])
SCALING = Scaling(column="x", output="scaled")


def unread(folder: str) -> Transform:
    step = PretrainedTokens(column="text", output="tokens", folder=folder, vocabulary_size=512)
    return Transform((SCALING, step))


def write(folder: Path, config: dict[str, Any] | str, tokenizer: str | None = CONTENT) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer)
    return str(folder)


def read(folder: str) -> PretrainedTokens:
    other, step = with_files(unread(folder)).steps
    assert other is SCALING
    assert isinstance(step, PretrainedTokens)
    return step


@pytest.mark.parametrize(
    ("config", "begin", "ends"),
    [
        ({"bos_token_id": 260, "eos_token_id": 261}, 260, [261]),
        ({"bos_token_id": 260, "eos_token_id": [262, 261]}, 260, [261, 262]),
        ({"bos_token_id": None, "eos_token_id": 261}, 261, [261]),
        ({"bos_token_id": 260}, 260, []),
    ],
)
def test_a_document_begins_with_the_token_that_the_model_was_trained_to_see_there(
    tmp_path: Path, config: dict[str, Any], begin: int, ends: list[int]
) -> None:
    step = read(write(tmp_path, config))
    assert (step.begin, step.their_ends) == (begin, ends)


def test_a_folder_may_lie_behind_a_uri(tmp_path: Path) -> None:
    Storage("memory://hub").upload(Path(write(tmp_path, {"bos_token_id": 260})), "qwen")
    assert read("memory://hub/qwen").tokenizer == CONTENT


def test_a_digest_follows_the_files(tmp_path: Path) -> None:
    folder = write(tmp_path, {"bos_token_id": 260})
    before = file_digests(unread(folder))
    assert before == file_digests(unread(folder))
    assert [*before] == [folder]
    write(tmp_path, {"bos_token_id": 261})
    assert file_digests(unread(folder)) != before
    assert file_digests(Transform((SCALING,))) == {}


@pytest.mark.parametrize(
    ("config", "tokenizer", "message"),
    [
        ({}, CONTENT, r"config.json names no token that begins a document, nor one that ends it: give it bos_token_id"),
        ("{", CONTENT, r"config.json cannot be read: .*Fetch the folder again"),
        ({"bos_token_id": 1}, None, r"has no tokenizer.json; give the path or URI of a Hugging Face folder"),
    ],
)
def test_a_folder_that_lacks_something_is_told(
    tmp_path: Path, config: dict[str, Any] | str, tokenizer: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        with_files(unread(write(tmp_path, config, tokenizer)))
