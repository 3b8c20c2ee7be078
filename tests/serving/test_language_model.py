import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer

from cluster.errors import RegistryError
from cluster.registry import Registry
from cluster.storage import Storage
from jobs.features.bpe import START
from jobs.spec import RingSpec
from jobs.version import read
from serving.language_model import LanguageModel
from tests.jobs.features.byte_level import BEGIN, tokenizer_json
from tests.serving import texts

Published = tuple[Storage, RingSpec, str]


def loaded(published: Published, golden: pa.Table | None = None) -> LanguageModel:
    storage, spec, version = published
    with Registry(storage, spec.name).open(version) as folder:
        content = read(folder)
    if golden is not None:
        content = type(content)(**{**vars(content), "golden": golden})
    return LanguageModel(version, "2026-01-01T00:00:00+00:00", content)


def test_a_prompt_and_what_follows_fill_the_context(language_model: LanguageModel) -> None:
    prompt = language_model.tokens_of("aß")
    assert prompt == [START, *"aß".encode()]
    assert language_model.room_after(prompt) == texts.CONTEXT_LENGTH + 1 - 4


def test_golden_prompts_go_on_with_a_cache_as_they_did_without(published_texts: Published) -> None:
    model = loaded(published_texts)
    assert len(model._content.golden) >= 5
    model.check_golden()


@pytest.mark.parametrize("change", ["token", "log probability", "NaN"])
def test_a_version_that_answers_otherwise_is_refused(published_texts: Published, change: str) -> None:
    golden = loaded(published_texts)._content.golden.to_pydict()
    if change == "token":
        golden["continuation"][1][0] ^= 1
    else:
        golden["log_probabilities"][1][0] = (
            float("nan") if change == "NaN" else golden["log_probabilities"][1][0] + 2e-4
        )
    schema = loaded(published_texts)._content.golden.schema
    model = loaded(published_texts, pa.table(golden, schema=schema))
    with pytest.raises(RegistryError, match=r"goes on after 'Grüße, 世界' unlike it did in training: token 1 is"):
        model.check_golden()


def test_golden_prompts_beyond_a_short_context_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "version").mkdir()
    published = texts.publish(tmp_path / "storage", tmp_path / "version", context_length=12)
    loaded(published).check_golden()


def test_learned_tokens_are_served_as_they_were_trained(tmp_path: Path) -> None:
    (tmp_path / "version").mkdir()
    published = texts.publish(tmp_path / "storage", tmp_path / "version", tokenizer="bpe")
    model = loaded(published)
    model.check_golden()
    prompt = model.tokens_of(texts.LINE)
    assert len(prompt) < len(texts.LINE.encode())
    parts = [texts.LINE[begin:] * 200 for begin in range(len(texts.LINE))]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(model.tokens_of, parts)) == [model.tokens_of(part) for part in parts]
    stream = model.stream()
    assert "".join(stream.add(token) for token in prompt[1:]) == texts.LINE


def test_a_tokenizer_from_elsewhere_is_served_and_a_text_may_come_to_its_end(tmp_path: Path) -> None:
    for name in ("version", "qwen"):
        (tmp_path / name).mkdir()
    content = tokenizer_json([texts.LINE])
    begin = Tokenizer.from_str(content).token_to_id(BEGIN)
    (tmp_path / "qwen/tokenizer.json").write_text(content)
    (tmp_path / "qwen/config.json").write_text(json.dumps({"eos_token_id": begin}))
    given = {"tokenizer": "folder", "tokenizer_folder": str(tmp_path / "qwen"), "vocabulary_size": 320}
    published = texts.publish(tmp_path / "storage", tmp_path / "version", **given)
    shutil.rmtree(tmp_path / "qwen")
    model = loaded(published)
    model.check_golden()
    stream = model.stream()
    assert "".join(stream.add(token) for token in model.tokens_of(texts.LINE)[1:]) == texts.LINE
    assert not stream.has_ended
    assert stream.add(START) == ""
    assert stream.has_ended
    assert bool(model._allowed(torch.zeros(320)).isfinite()[START])


def test_a_model_of_bytes_never_begins_a_document_in_a_text(language_model: LanguageModel) -> None:
    assert language_model._allowed(torch.zeros(288)).isfinite().sum() == 256
    assert not language_model._allowed(torch.zeros(288)).isfinite()[START]


@pytest.mark.parametrize("architecture", ["lstm", "gru"])
def test_a_recurrent_network_goes_on_as_in_training(tmp_path: Path, architecture: str) -> None:
    (tmp_path / "version").mkdir()
    no_heads = {"architecture": architecture, "feed_forward_dim": 384}
    model = loaded(texts.publish(tmp_path / "storage", tmp_path / "version", **no_heads))
    assert len(model._content.golden) >= 5
    model.check_golden()
