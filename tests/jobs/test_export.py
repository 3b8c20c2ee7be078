"""Published versions as transformers loads them, from the command line on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from cluster.errors import RegistryError, SpecError, StorageError
from cluster.registry import Registry
from cluster.spec import dump
from cluster.storage import Storage
from jobs import stored_weights, version
from jobs.export import Source, export, main, source_of
from jobs.lineage import prepared_folder
from jobs.spec import RingSpec
from jobs.start import check_start
from jobs.workloads import classification, recommender, text
from jobs.workloads.tokenizer import encoded
from tests.jobs.hugging_face_models import loaded, transformers
from tests.jobs.published import publish as publish_trained
from tests.jobs.test_hugging_face_encoder import bert
from tests.jobs.test_version import SPEC as FILMS
from tests.jobs.workloads.example import made_up, prepare
from tests.serving.texts import publish

Published = tuple[Storage, RingSpec, str]
FORMS: list[dict[str, Any]] = [
    {},
    {"tie_embeddings": True, "qkv_bias": True, "num_heads": 8, "rope_theta": 1000.0},
    {"qk_norm": True, "head_dim": 6, "activation": "gelu", "norm_epsilon": 1e-3, "tokenizer": "bpe"},
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("version"))


def spec_file(published: Published, folder: Path) -> str:
    path = folder / "texts.yaml"
    path.write_text(dump(published[1]))
    return str(path)


@pytest.mark.parametrize("form", FORMS, ids=["llama", "qwen2", "qwen3"])
def test_transformers_answers_as_the_version_does(form: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "version").mkdir()
    storage, spec, name = publish(tmp_path / "storage", tmp_path / "version", **form)
    told = export(Source(Registry(storage, spec.name), name), str(tmp_path / "out"))
    content = version.read(Path(storage.path(f"models/texts/{name}")))
    workload: Any = content.spec.workload
    token = torch.tensor([encoded(workload, "Grüße an alle: the cat sat", content.transform)])
    position = torch.arange(token.shape[1])[None]
    with torch.no_grad():
        theirs, ours = loaded(tmp_path / "out"), content.model({"token": token, "position": position})
        torch.testing.assert_close(theirs(token).logits, ours, rtol=0, atol=1e-5)
    assert f"{theirs.num_parameters():,} weights" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["exported"] == {"model": "texts", "version": name}


def test_an_encoder_begins_with_a_folder_and_goes_out_as_one(tmp_path: Path) -> None:
    lines = [{"id": str(n), "text": f"{'hello' if n % 3 else 'bye'} {n}", "label": "ab"[n % 3 == 0]} for n in range(60)]
    storage = Storage(str(tmp_path / "storage"))
    storage.write("raw/texts/a.jsonl", "\n".join(map(json.dumps, lines)).encode())
    bert().save_pretrained(tmp_path / "bert")
    sizes = {"vocabulary_size": 300, "hidden_dim": 32, "num_layers": 2, "feed_forward_dim": 48, "num_positions": 40}
    spec = RingSpec.model_validate(
        {
            "name": "greetings",
            "storage": storage.uri,
            "raw": {"events": {"path": "raw/texts"}},
            "prepare": {"split": {"by": "hash", "valid": 0.2, "test": 0.2}},
            "workload": {"kind": "text", "context_length": 12, "tokenizer": "bpe", **sizes},
            "train": {
                "num_epochs": 1,
                "batch_size": 8,
                "early_stopping": {"metric": "accuracy"},
                "start": {"folder": str(tmp_path / "bert"), "leave_out": ("head.output.*",)},
            },
        }
    )
    name = publish_trained(spec, storage)
    assert "has learned the tokens of its own tokenizer" in check_start(spec, storage, prepared_folder(spec, storage))
    export(Source(Registry(storage, spec.name), name), str(tmp_path / "out"))
    content = version.read(Path(storage.path(f"models/greetings/{name}")))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(str(tmp_path / "out")).eval()
    asked = pa.table({"text": ["hello you", "bye"]})
    for row in asked.to_pylist():
        given = pa.table({"read": [content.transform.apply_row({**row, "label": "a"})["read"]], "class": [1]})
        with torch.no_grad():
            ours = content.model({**text.tensors(given), "key": torch.zeros(1, dtype=torch.int64)})
            there = theirs(**tokenizer(row["text"], return_tensors="pt", return_token_type_ids=False)).logits
        torch.testing.assert_close(ours, there, rtol=0, atol=1e-5)
    assert theirs.config.id2label == dict(enumerate(classification.labels(content.transform)))


def test_the_command_takes_a_spec_or_the_folder_of_a_version(published: Published, tmp_path: Path) -> None:
    storage, _, name = published
    command = [sys.executable, "-m", "jobs.export", spec_file(published, tmp_path), str(tmp_path / "by-spec")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"export: version {name} of 'texts', ")
    assert main([f"{storage.uri}/models/texts/{name}", str(tmp_path / "by-folder")]) == 0
    one, other = (tmp_path / f"{how}/model.safetensors" for how in ("by-spec", "by-folder"))
    assert one.read_bytes() == other.read_bytes()


def test_a_version_goes_to_another_storage_too(published: Published) -> None:
    storage, spec, name = published
    export(Source(Registry(storage, spec.name), name), "memory://exports/texts")
    assert Storage("memory://exports").is_published("texts")


def test_a_spec_stands_for_the_version_that_is_served(published: Published, tmp_path: Path) -> None:
    _, _, name = published
    path = spec_file(published, tmp_path)
    assert source_of(path, []).version == name
    assert source_of(path, [f"serving.version={name}"]).version == name
    with pytest.raises(RegistryError, match="'challenger' is no version or alias of 'texts'"):
        source_of(path, ["serving.version=challenger"])


@pytest.mark.parametrize(
    ("given", "overrides"), [("texts", []), ("/data/models/texts/v1", ["seed=1"]), ("a/b/c/d", [])]
)
def test_what_stands_for_no_version_is_told(given: str, overrides: list[str]) -> None:
    with pytest.raises(SpecError, match=r"names no version; give a spec file .* STORAGE/models/NAME/VERSION"):
        source_of(given, overrides)


def test_a_folder_that_is_there_stays_as_it_is(published: Published, tmp_path: Path) -> None:
    storage, spec, name = published
    with pytest.raises(StorageError, match=rf"'{tmp_path}' is there already; give a new folder, or remove it"):
        export(Source(Registry(storage, spec.name), name), str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    prepared = prepare(*made_up(), FILMS.workload)
    (tmp_path / "version").mkdir()
    model = recommender.build(FILMS.workload, prepared.transform)
    version.write(tmp_path / "version", FILMS, prepared.transform, model, prepared.train, prepared.test, {})
    registry = Registry(Storage(str(tmp_path / "storage")), "films")
    name = registry.publish(tmp_path / "version", {})
    with pytest.raises(SpecError, match=rf"version {name} of 'films' is a recommender model, of which"):
        export(Source(registry, name), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_version_that_computes_in_int8_is_refused(published: Published, tmp_path: Path) -> None:
    storage, spec, name = published
    content = version.read(Path(storage.path(f"models/texts/{name}")))
    (tmp_path / "version").mkdir()
    storage.download(f"models/texts/{name}", tmp_path / "version")
    (tmp_path / "version/manifest.json").unlink()
    stored_weights.save(content.model, tmp_path / "version/weights.safetensors", "int8")
    smaller = Registry(storage, spec.name).publish(tmp_path / "version", {})
    with pytest.raises(SpecError, match=rf"version {smaller} of 'texts' computes in int8.* export the version it was"):
        export(Source(Registry(storage, spec.name), smaller), str(tmp_path / "out"))
