"""Training from weights that are there already: of versions, checkpoints and folders of transformers."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from cluster.errors import DataError, RegistryError, SpecError
from cluster.registry import Registry
from cluster.spec import with_values
from cluster.storage import Storage
from jobs import prepare, version
from jobs.export import Source, export
from jobs.features.bpe import START
from jobs.features.transform import Transform
from jobs.fit import EpochReport, fit
from jobs.hugging_face_folder import HuggingFaceFolder
from jobs.lineage import prepared_folder, train_inputs
from jobs.parallel.checkpoint import Checkpoints
from jobs.parallel.collectives import rank
from jobs.prepared import read_transform
from jobs.spec import RingSpec
from jobs.start import check_start, put_start, settled, start_of
from jobs.train import plan
from jobs.weight_names import own_weights, without_weights
from jobs.workloads import WORKLOADS
from jobs.workloads.chain import Chain
from jobs.workloads.tokenizer import encoded
from tests.jobs.features.byte_level import BEGIN, TURN, tokenizer_json
from tests.jobs.hugging_face_models import loaded, model_of, transformers
from tests.jobs.parallel.training import SAMPLES
from tests.jobs.parallel.workers import run_together
from tests.jobs.published import publish

TEXT = "the cat sat on the mat and looked at a dog that slept under the old tree by the river"
WORDS = TEXT.split()
FOLDER_MODEL = {
    **{"vocabulary_size": 300, "hidden_dim": 48, "num_layers": 2, "num_heads": 6, "num_kv_heads": 2},
    **{"feed_forward_dim": 80, "norm_epsilon": 1e-3},
}
"""Of `model_of("llama")`."""


def spec_of(storage: Storage, name: str = "texts", **train: Any) -> RingSpec:
    return RingSpec.model_validate(
        {
            "name": name,
            "storage": storage.uri,
            "raw": {"events": {"path": "raw/texts"}},
            "prepare": {"split": {"by": "hash", "valid": 0.2, "test": 0.2}},
            "workload": {"kind": "language", "context_length": 32, **FOLDER_MODEL},
            "train": {
                "num_epochs": 2,
                "batch_size": 8,
                "schedule": "constant",
                "early_stopping": {"metric": "bits_per_byte", "mode": "min"},
                **train,
            },
        }
    )


def started(spec: RingSpec, **start: Any) -> RingSpec:
    return with_values(spec, {"train.start": {key: value for key, value in start.items() if value is not None}})


def write_texts(storage: Storage) -> None:
    lines = [
        {"document": f"d{n}", "text": " ".join(WORDS[(n * k) % len(WORDS)] for k in range(1, 20))} for n in range(40)
    ]
    storage.write("raw/texts/a.jsonl", "\n".join(map(json.dumps, lines)).encode())


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> tuple[RingSpec, Storage, str]:
    """Spec, storage with prepared rows, and a published version of another name."""
    torch.set_num_threads(1)
    storage = Storage(str(tmp_path_factory.mktemp("texts")))
    write_texts(storage)
    spec = spec_of(storage)
    prepare.run(spec, storage)
    return spec, storage, publish(spec_of(storage, "before"), storage)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as transformers writes it."""
    path = tmp_path_factory.mktemp("llama")
    model_of("llama").save_pretrained(path)
    return path


def checked(spec: RingSpec, storage: Storage) -> str:
    return check_start(spec, storage, prepared_folder(spec, storage))


def begun(spec: RingSpec, storage: Storage) -> dict[str, torch.Tensor]:
    """The weights that a run of this spec begins with."""
    torch.manual_seed(spec.seed)
    model = WORKLOADS["language"].build(spec.workload, Transform(()))
    put_start(model, spec, storage, read_transform(storage, prepared_folder(spec, storage)))
    return dict(model.state_dict())


def losses_of(spec: RingSpec, storage: Storage, checkpoints: Checkpoints | None = None) -> list[float]:
    reports: list[EpochReport] = []
    fit(spec, storage, prepared_folder(spec, storage), checkpoints, reports.append)
    return [report.loss for report in reports]


def write_losses(place: Path, specs: list[RingSpec], storage: Storage) -> None:
    """What each worker of a process group does."""
    (place / f"{rank()}.json").write_text(json.dumps([losses_of(spec, storage) for spec in specs]))


def weights_of(storage: Storage, name: str, of: str) -> dict[str, torch.Tensor]:
    with Registry(storage, name).open(of) as path:
        return dict(version.read(path).model.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, bool]:
    return {name: torch.equal(one[name], other[name]) for name in one}


def test_without_a_start_nothing_is_touched(ring: tuple[RingSpec, Storage, str]) -> None:
    spec, storage, _ = ring
    torch.manual_seed(spec.seed)
    drawn = WORKLOADS["language"].build(spec.workload, Transform(())).state_dict()
    assert all(same(begun(spec, storage), drawn).values())
    assert start_of(spec, storage) is None
    assert checked(spec, storage) == ""
    assert settled(spec, storage) is spec


def test_a_version_of_another_model_is_what_training_begins_with(ring: tuple[RingSpec, Storage, str]) -> None:
    spec, storage, name = ring
    given = started(spec, model="before", version="champion")
    assert checked(given, storage) == ""
    assert all(same(begun(given, storage), weights_of(storage, "before", name)).values())
    first, further = losses_of(spec, storage), losses_of(given, storage)
    assert further[0] < first[0]


def test_what_is_left_out_is_drawn_as_it_would_be_without_a_start(ring: tuple[RingSpec, Storage, str]) -> None:
    spec, storage, name = ring
    given = started(spec, model="before", version=name, leave_out=["embedding.*", "head.output.weight"])
    found, drawn = begun(given, storage), begun(spec, storage)
    from_version = same(found, weights_of(storage, "before", name))
    apart = {"embedding.token.weight", "head.output.weight"}
    assert {name for name, is_same in from_version.items() if not is_same} == apart
    assert all(torch.equal(found[name], drawn[name]) for name in apart)


def test_a_folder_of_transformers_is_what_training_begins_with(
    ring: tuple[RingSpec, Storage, str], folder: Path
) -> None:
    spec, storage, _ = ring
    given = started(spec, folder=str(folder))
    assert "has learned the tokens of its own tokenizer; here its vectors stand for ours" in checked(given, storage)
    model = WORKLOADS["language"].build(given.workload, Transform(()))
    assert isinstance(model, Chain)
    model.load_state_dict(begun(given, storage))
    tokens = torch.randint(0, 300, (2, 20))
    with torch.no_grad():
        ours = model({"token": tokens, "position": torch.arange(20).expand(2, -1)})
        torch.testing.assert_close(ours, model_of("llama")(tokens).logits, rtol=0, atol=1e-5)


def test_a_model_comes_with_its_tokenizer_is_trained_and_goes_with_it(
    ring: tuple[RingSpec, Storage, str], tmp_path: Path
) -> None:
    _, storage, _ = ring
    content = tokenizer_json([TEXT])
    begin, turn = (Tokenizer.from_str(content).token_to_id(name) for name in (BEGIN, TURN))
    there, back = tmp_path / "there", tmp_path / "back"
    given = model_of("qwen2", vocab_size=320, eos_token_id=[begin, turn], bos_token_id=None)
    given.save_pretrained(there)
    (there / "tokenizer.json").write_text(content)
    wanted = workload_of(there)
    spec = with_values(spec_of(storage, "tokens", num_epochs=1, start={"folder": str(there)}), wanted)
    prepare.run(spec, storage)
    assert checked(spec, storage) == ""
    name = publish(spec, storage)
    export(Source(Registry(storage, "tokens"), name), str(back))

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(back))
    assert tokenizer(TEXT).input_ids == Tokenizer.from_str(content).encode(TEXT).ids
    assert tokenizer.bos_token_id == begin
    transform = read_transform(storage, prepared_folder(spec, storage))
    ours = torch.tensor([encoded(spec.workload, TEXT, transform)])
    theirs = torch.tensor([[begin, *tokenizer(TEXT).input_ids]])
    order = torch.arange(320)
    order[START], order[begin] = begin, START
    for model, weights in ((given, begun(spec, storage)), (loaded(back), weights_of(storage, "tokens", name))):
        own = WORKLOADS["language"].build(spec.workload, transform)
        own.load_state_dict(weights)
        with torch.no_grad():
            found = own({"token": ours, "position": torch.arange(ours.shape[1])[None]})
            torch.testing.assert_close(found[..., order], model(theirs).logits, rtol=0, atol=1e-5)
    assert not any(same(begun(spec, storage), weights_of(storage, "tokens", name)).values())
    config = json.loads((back / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (begin, [begin, turn])


def workload_of(folder: Path) -> dict[str, Any]:
    """The workload of the model in a folder and of its tokenizer."""
    spec = HuggingFaceFolder(folder, str(folder)).spec.model_dump(exclude_defaults=True)
    of_tokens = {"tokenizer": "folder", "tokenizer_folder": str(folder), "context_length": 32}
    return {f"workload.{key}": value for key, value in (spec | of_tokens).items()}


def test_what_was_exported_is_gone_on_with_without_a_word(ring: tuple[RingSpec, Storage, str], tmp_path: Path) -> None:
    spec, storage, name = ring
    export(Source(Registry(storage, "before"), name), str(tmp_path / "out"))
    given = started(spec, folder=str(tmp_path / "out"))
    assert checked(given, storage) == ""
    assert all(same(begun(given, storage), weights_of(storage, "before", name)).values())


def test_a_folder_behind_a_uri_is_one_too(ring: tuple[RingSpec, Storage, str], folder: Path) -> None:
    spec, storage, _ = ring
    Storage("memory://hub").upload(folder, "llama")
    there, here = (started(spec, folder=uri) for uri in ("memory://hub/llama", str(folder)))
    checked(there, storage)
    assert all(same(begun(there, storage), begun(here, storage)).values())


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_checkpoint_gives_what_would_have_been_published_of_it(
    ring: tuple[RingSpec, Storage, str], ema_decay: float | None
) -> None:
    _, storage, _ = ring
    spec = spec_of(storage, ema_decay=ema_decay, keep_checkpoints=9)
    checkpoints = Checkpoints(storage, f"checkpoints/texts/ema-{ema_decay}")
    losses_of(spec, storage, checkpoints)
    expected = WORKLOADS["language"].build(spec.workload, Transform(()))
    best = checkpoints.progress(checkpoints.steps()[-1]).best_step
    checkpoints.load_weights(best, expected)
    given = started(spec, checkpoint=checkpoints.folder)
    assert f"step-{best:08d} has to be of the same prepared rows" in checked(given, storage)
    assert all(same(begun(given, storage), expected.state_dict()).values())
    first = checkpoints.steps()[0]
    checkpoints.load_weights(first, expected)
    given = started(spec, checkpoint=checkpoints.at(first))
    assert all(same(begun(given, storage), expected.state_dict()).values())


def test_every_layout_begins_and_goes_on_alike(ring: tuple[RingSpec, Storage, str], tmp_path: Path) -> None:
    spec, storage, name = ring
    given = started(spec, model="before", version=name)
    alone = losses_of(given, storage)
    specs = [with_values(given, {"layout": layout}) for layout in ({"tensor": 2}, {"shard": 2})]
    run_together(2, partial(write_losses, specs=specs, storage=storage), tmp_path)
    for worker in range(2):
        for found in json.loads((tmp_path / f"{worker}.json").read_text()):
            assert found == pytest.approx(alone, rel=1e-5)


def test_a_run_that_goes_on_needs_no_start_any_more(ring: tuple[RingSpec, Storage, str], folder: Path) -> None:
    spec, storage, _ = ring
    checkpoints = Checkpoints(storage, "checkpoints/texts/resumed")
    short = with_values(started(spec, folder=str(folder)), {"train.num_epochs": 1})
    losses_of(short, storage, checkpoints)
    gone = started(spec, folder=str(folder / "gone"))
    step = checkpoints.steps()[-1]
    with pytest.raises(DataError, match=r"gone/config.json cannot be read"):
        losses_of(gone, storage)
    manifest = storage.manifest(checkpoints.at(step))
    manifest["progress"]["stopped"] = False
    storage.write(f"{checkpoints.at(step)}/manifest.json", json.dumps(manifest).encode())
    assert losses_of(gone, storage, checkpoints) == losses_of(started(spec, folder=str(folder)), storage)[1:]


def test_what_a_run_starts_from_is_in_its_key_and_in_the_plan(
    ring: tuple[RingSpec, Storage, str], folder: Path, tmp_path: Path
) -> None:
    spec, storage, name = ring
    by_alias = started(spec, model="before", version="champion")
    assert train_inputs(by_alias, storage).spec["start"] == name
    assert f"start with version {name} of 'before'" in plan(by_alias, storage)
    assert "start with" not in plan(spec, storage)
    model_of("llama").save_pretrained(tmp_path)
    by_folder = started(spec, folder=str(tmp_path))
    before = train_inputs(by_folder, storage).key
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    keys = {train_inputs(one, storage).key for one in (spec, by_alias, by_folder)} | {before}
    assert len(keys) == 4
    assert f"start with {tmp_path}" in plan(by_folder, storage)


def test_an_alias_of_its_own_is_in_the_key_as_such_and_settled_for_the_workers(
    ring: tuple[RingSpec, Storage, str],
) -> None:
    _, storage, name = ring
    own = started(spec_of(storage, "before"), version="champion")
    assert train_inputs(own, storage).spec["start"] == "champion"
    assert settled(own, storage).train.start == own.train.start.model_copy(  # type: ignore[union-attr]
        update={"model": "before", "version": name}
    )


def test_a_folder_is_settled_by_its_absolute_path(
    ring: tuple[RingSpec, Storage, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, storage, _ = ring
    monkeypatch.chdir(folder.parent)
    found = settled(started(spec, folder=folder.name), storage).train.start
    assert found is not None
    assert found.folder == str(folder)


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ({"num_layers": 3}, r"it lacks layer2\.attention_norm\.weight, .* and 5 more\. Give workload the sizes"),
        ({"num_layers": 1}, r"the model has no layer1\.attention_norm\.weight, .* and 5 more\."),
        ({"feed_forward_dim": 64}, r"of other shape are layer0\.feed_forward\.gate\.weight \[80, 48\] for \[64, 48\]"),
        ({"qk_norm": True}, r"it lacks layer0\.attention\.query_norm\.weight, "),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    ring: tuple[RingSpec, Storage, str], workload: dict[str, Any], message: str
) -> None:
    spec, storage, name = ring
    given = started(spec, model="before", version=name)
    with pytest.raises(SpecError, match=rf"version {name} of 'before' does not fit .*{message}"):
        checked(with_values(given, {f"workload.{key}": value for key, value in workload.items()}), storage)


def test_a_folder_of_another_form_is_refused_with_the_overrides(
    ring: tuple[RingSpec, Storage, str], folder: Path
) -> None:
    spec, storage, _ = ring
    given = with_values(started(spec, folder=str(folder)), {"workload.norm_epsilon": 1e-5})
    with pytest.raises(SpecError, match=r"of another form than workload says\. Give workload\.norm_epsilon=0\.001"):
        checked(given, storage)
    other = with_values(started(spec, folder=str(folder)), {"workload.vocabulary_size": 288})
    with pytest.raises(SpecError, match=r"Give workload\.vocabulary_size=300"):
        checked(other, storage)
    left = started(other, folder=str(folder), leave_out=["embedding.*", "head.output.*"])
    assert checked(left, storage) == ""
    assert begun(left, storage)["embedding.token.weight"].shape == (288, 48)


def test_a_version_of_other_tokens_is_refused_unless_these_are_left_out(ring: tuple[RingSpec, Storage, str]) -> None:
    spec, storage, name = ring
    given = with_values(started(spec, model="before", version=name), {"workload.tokenizer": "bpe"})
    prepare.run(given, storage)
    with pytest.raises(SpecError, match=r"reads other tokens than those that were fitted .*leave_out=\[.embedding"):
        checked(given, storage)
    left = started(given, model="before", version=name, leave_out=["embedding.*", "head.output.*"])
    assert checked(left, storage) == ""


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        ({"version": "v1"}, RegistryError, "'v1' is no version or alias of 'texts'"),
        (
            {"checkpoint": "checkpoints/texts/none"},
            SpecError,
            r"there is no checkpoint in .* by that name",
        ),
        ({"checkpoint": "checkpoints/texts/none/step-00000007"}, SpecError, "there is no checkpoint in"),
        ({"version": "champion", "model": "before", "leave_out": ["hed.*"]}, SpecError, r"no name matches 'hed\.\*'"),
    ],
)
def test_a_start_that_is_not_there_is_named(
    ring: tuple[RingSpec, Storage, str], start: dict[str, Any], error: type[Exception], message: str
) -> None:
    spec, storage, _ = ring
    with pytest.raises(error, match=message):
        checked(started(spec, **start), storage)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({}, "nothing to start from; give one of version, checkpoint and folder"),
        ({"version": "a", "folder": "b"}, "version and folder to start from; give one of"),
        ({"folder": "b", "model": "a"}, "model=a says whose version it is, but folder is given; leave model out"),
    ],
)
def test_one_thing_is_started_from(start: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        started(spec_of(Storage("memory://none")), **start)


@pytest.mark.parametrize("kind", ["recommender", "tabular", "vision", "language"])
def test_shapes_of_every_workload_can_be_known_without_its_weights(kind: str) -> None:
    sample = SAMPLES[kind]()
    build: Callable[..., Any] = WORKLOADS[kind].build
    unfilled = without_weights(sample.spec, sample.transform)
    assert all(weight.is_meta for weight in unfilled.parameters())
    shapes = {name: weight.shape for name, weight in own_weights(unfilled)}
    real = build(sample.spec, sample.transform)
    assert shapes == {name: weight.shape for name, weight in own_weights(real)}
    assert set(shapes) == set(real.state_dict())
