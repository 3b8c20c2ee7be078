"""Where weights come from, with versions of handwritten digits: other kinds, other rows, other classes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.errors import SpecError
from cluster.spec import with_values
from cluster.storage import Storage
from jobs import prepare
from jobs.examples import digits, write_changed
from jobs.lineage import prepared_folder
from jobs.prepared import read_transform
from jobs.spec import RingSpec, StartSpec, load_ring
from jobs.start import check_start, start_of
from jobs.start_weights import FromCheckpoint, FromFolder
from tests.jobs.hugging_face_models import model_of
from tests.jobs.published import publish

SPECS = Path(__file__).parents[2] / "jobs/specs"
VISION = ("train.num_epochs=1", "workload.block_channels=[4, 8]", "layout={replicate: 1}")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> tuple[RingSpec, Storage, str]:
    torch.set_num_threads(1)
    storage = Storage(str(tmp_path_factory.mktemp("digits")))
    write_changed(storage, digits())
    name = publish(load_ring(SPECS / "vision.yaml", [*VISION, "name=before"]), storage)
    spec = load_ring(SPECS / "vision.yaml", [*VISION, f"train.start={{model: before, version: {name}}}"])
    prepare.run(spec, storage)
    return spec, storage, name


def test_a_version_of_the_same_rows_needs_no_word(ring: tuple[RingSpec, Storage, str]) -> None:
    spec, storage, _ = ring
    assert check_start(spec, storage, prepared_folder(spec, storage)) == ""


def test_a_version_of_other_rows_is_taken_with_a_word(ring: tuple[RingSpec, Storage, str]) -> None:
    spec, storage, name = ring
    other = with_values(spec, {"prepare.split.test": 0.3})
    prepare.run(other, storage)
    note = check_start(other, storage, prepared_folder(other, storage))
    assert note.startswith(f"version {name} of 'before' was fitted on other rows, where the number of a category")


def test_another_kind_of_model_is_refused(ring: tuple[RingSpec, Storage, str]) -> None:
    spec, storage, name = ring
    transform = read_transform(storage, prepared_folder(spec, storage))
    text = load_ring(SPECS / "language.yaml", [f"train.start={{model: before, version: {name}}}"])
    start = start_of(text, storage)
    assert start is not None
    with pytest.raises(SpecError, match=r"version .* of 'before' is a vision model, workload\.kind=language"):
        start.check(text, transform, frozenset())
    with pytest.raises(
        SpecError, match="read for the transformers of language, text and tagging, this model is vision"
    ):
        FromFolder("hub").check(spec, transform, frozenset())


def test_the_best_checkpoint_of_a_run_is_meant_where_its_folder_is_given(ring: tuple[RingSpec, Storage, str]) -> None:
    _, storage, _ = ring
    run = FromCheckpoint.at(storage, "checkpoints/before/one/")
    assert run.step == run.checkpoints.progress(run.checkpoints.steps()[-1]).best_step
    assert run.line() == f"checkpoints/before/one/step-{run.step:08d}"
    assert FromCheckpoint.at(storage, run.line()) == run
    assert run.settled(StartSpec(checkpoint="checkpoints/before/one")).checkpoint == run.line() == run.key()


def test_the_files_of_a_folder_are_its_key(tmp_path: Path) -> None:
    model_of("llama").save_pretrained(tmp_path)
    start = FromFolder(str(tmp_path))
    before = start.key()
    assert start.key() == before
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
    assert start.key() != before
    with pytest.raises(SpecError, match=r"train\.start\.folder=.*/none does not exist or is empty; give a folder with"):
        FromFolder(str(tmp_path / "none")).key()


def test_a_folder_with_tied_weights_may_hold_them_twice(tmp_path: Path) -> None:
    theirs = model_of("llama tied")
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    twice = {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    once = FromFolder(str(tmp_path)).shapes(torch.nn.Module())
    save_file(weights | twice, tmp_path / "model.safetensors")
    assert FromFolder(str(tmp_path)).shapes(torch.nn.Module()) == once
