"""Versions of real data made smaller: they are read, measured and served as such."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError, RegistryError, SpecError
from cluster.registry import Registry
from cluster.spec import check
from cluster.storage import Storage
from jobs import compress, version
from jobs.examples import digits, write_changed
from jobs.int8 import Int8Linear
from jobs.lineage import prepared_folder
from jobs.prepared import read_split
from jobs.spec import CompressSpec, RingSpec, load_ring
from jobs.workloads import WORKLOADS
from tests.jobs.published import publish

SPECS = Path(__file__).parents[2] / "jobs/specs"
VISION = ("train.num_epochs=3", "workload.block_channels=[8, 16, 32]", "layout={replicate: 1}")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> tuple[RingSpec, Storage, str]:
    """Handwritten digits: spec, storage and the published version."""
    storage = Storage(str(tmp_path_factory.mktemp("digits")))
    write_changed(storage, digits())
    spec = load_ring(SPECS / "vision.yaml", VISION)
    return spec, storage, publish(spec, storage)


def smaller(ring: tuple[RingSpec, Storage, str], **given: Any) -> tuple[Storage, RingSpec, compress.Made]:
    spec, storage, _ = ring
    spec = spec.model_copy(update={"compress": CompressSpec(**given)})
    return storage, spec, compress.run(spec, storage)


def content_of(storage: Storage, made: compress.Made) -> tuple[version.Version, dict[str, Any], str]:
    with Registry(storage, "vision").open(made.folder.rsplit("/", 1)[1]) as folder:
        told = json.loads((folder / "compression.json").read_text())
        return version.read(folder), told, (folder / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(
    ("given", "most_bytes"),
    [
        ({"method": "int8_weights"}, 0.35),
        ({"method": "prune", "share": 0.5}, 0.62),
        ({"method": "int8"}, 1.05),  # of convolutions it takes the head alone
    ],
)
def test_a_smaller_version_is_measured_beside_its_parent(
    ring: tuple[RingSpec, Storage, str], given: dict[str, Any], most_bytes: float
) -> None:
    storage, spec, made = smaller(ring, **given)
    content, told, card = content_of(storage, made)
    assert made.ran
    assert told["parent"]["version"] == ring[2]
    assert told["smaller"]["weights_bytes"] < most_bytes * told["parent"]["weights_bytes"]
    assert told["smaller"]["rows_ms"] > 0
    assert told["parent"]["metrics"]["accuracy"] > 0.8
    assert content.metrics == told["smaller"]["metrics"]
    assert content.metrics["accuracy"] > told["parent"]["metrics"]["accuracy"] - 0.1
    for number in (f"{content.metrics['accuracy']:.4f}", f"{told['smaller']['weights_bytes']:,}"):
        assert number in made.summary
        assert number in card
    test = read_split(storage, prepared_folder(spec, storage), "test", ("id",))
    assert WORKLOADS["vision"].evaluate(spec.workload, content.model, content.transform, test) == content.metrics
    manifest = Registry(storage, "vision").manifest(made.folder.rsplit("/", 1)[1])
    assert (manifest["parent"], manifest["run"]) == (ring[2], "one")
    assert Registry(storage, "vision").resolve("champion") == ring[2]


def test_pruned_weights_are_the_smallest_of_all_layers_together(ring: tuple[RingSpec, Storage, str]) -> None:
    storage, _, made = smaller(ring, method="prune", share=0.75)
    content, _, _ = content_of(storage, made)
    with Registry(storage, "vision").open(ring[2]) as folder:
        parent = version.read(folder).model
    before, after = (model.state_dict() for model in (parent, content.model))
    matrices = [name for name, weight in before.items() if weight.ndim > 1]
    zero = sum(int((after[name] == 0).sum()) for name in matrices)
    assert zero == round(0.75 * sum(before[name].numel() for name in matrices))
    lost = max(float(before[name][after[name] == 0].abs().max()) for name in matrices)
    assert lost <= min(float(after[name][after[name] != 0].abs().min()) for name in matrices)
    assert all((after[name] == before[name]).all() for name in before if name not in matrices)


def test_its_golden_rows_are_what_it_answers_itself(ring: tuple[RingSpec, Storage, str]) -> None:
    storage, spec, made = smaller(ring, method="int8")
    content, _, _ = content_of(storage, made)
    assert any(isinstance(module, Int8Linear) for module in content.model.modules())
    with Registry(storage, "vision").open(ring[2]) as folder:
        parents = pq.read_table(folder / "golden.parquet")
    assert content.golden.column("probabilities") != parents.column("probabilities")
    test = read_split(storage, prepared_folder(spec, storage), "test", ("id",))
    again = WORKLOADS["vision"].golden(spec.workload, content.model, content.transform, test)
    assert content.golden.column("probabilities") == again.column("probabilities")


def test_the_same_again_is_skipped_and_another_share_is_not(ring: tuple[RingSpec, Storage, str]) -> None:
    storage, spec, made = smaller(ring, method="prune", share=0.3)
    assert compress.plan(spec, storage) == (f"compress: skip, {made.folder} was made of {ring[2]} in the same way")
    again = compress.run(spec, storage)
    assert (again.ran, again.folder) == (False, made.folder)
    other = spec.model_copy(update={"compress": CompressSpec(method="prune", share=0.4)})
    assert compress.plan(other, storage) == f"compress: run, prune 0.4 of {ring[2]} -> models/vision/"


def test_nothing_is_made_smaller_twice_by_int8(ring: tuple[RingSpec, Storage, str]) -> None:
    _, _, made = smaller(ring, method="int8")
    name = made.folder.rsplit("/", 1)[1]
    with pytest.raises(SpecError, match=rf"compress.version={name} has no float weights left"):
        smaller(ring, method="int8", version=name)


def test_a_parent_that_is_not_there_and_rows_that_are_gone_are_named(
    ring: tuple[RingSpec, Storage, str], tmp_path: Path
) -> None:
    with pytest.raises(RegistryError, match="'challenger' is no version or alias"):
        smaller(ring, version="challenger")
    shutil.copytree(ring[1].path("models"), tmp_path / "models")
    with pytest.raises(DataError, match=r"the rows that the version was tested on are gone: 'prepared/vision/"):
        smaller((ring[0], Storage(str(tmp_path)), ring[2]), method="prune", share=0.9)


@pytest.mark.parametrize("given", [{"method": "prune"}, {"method": "int8", "share": 0.5}])
def test_a_share_is_of_prune_alone(given: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"prune needs the share of weights to let be 0, such as compress\.share=0\.5"):
        check(CompressSpec, given, "test")
