"""A student of handwritten digits and its teacher, both of real rows."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.errors import RegistryError, SpecError
from cluster.registry import Registry
from cluster.storage import Storage
from jobs import prepare, version
from jobs.examples import digits, write_changed
from jobs.fit import EpochReport, check, fit
from jobs.lineage import prepared_folder, train_inputs
from jobs.parallel.collectives import rank
from jobs.prepared import read_split
from jobs.spec import DistillSpec, RingSpec, load_ring
from jobs.teacher import check_teacher, taught, teacher_of
from jobs.workloads import WORKLOADS
from tests.jobs.parallel.workers import run_together
from tests.jobs.published import publish

Ring = tuple[RingSpec, Storage, str]
CPU = torch.device("cpu")
SPECS = Path(__file__).parents[2] / "jobs/specs"


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Ring:
    """Spec, storage and the published teacher of another name."""
    storage = Storage(str(tmp_path_factory.mktemp("digits")))
    write_changed(storage, digits())
    overrides = ("name=large", "train.num_epochs=4", "workload.block_channels=[16, 32]", "layout={replicate: 1}")
    teacher = publish(load_ring(SPECS / "vision.yaml", overrides), storage)
    spec = load_ring(SPECS / "vision.yaml", ["train.num_epochs=2", "workload.block_channels=[4, 8]"])
    prepare.run(spec, storage)
    return spec, storage, teacher


def student(spec: RingSpec, layout: dict[str, Any] | None = None, **distill: Any) -> RingSpec:
    given = DistillSpec(**{"model": "large", "version": "champion", **distill}) if distill else None
    changed = spec.model_copy(update={"train": spec.train.model_copy(update={"distill": given})})
    return changed.model_copy(update={"layout": type(spec.layout)(**(layout or {}))})


def losses_of(spec: RingSpec, storage: Storage) -> list[float]:
    reports: list[EpochReport] = []
    fit(spec, storage, prepared_folder(spec, storage), None, reports.append)
    return [report.loss for report in reports]


def write_losses(folder: Path, spec: RingSpec, storage: Storage) -> None:
    """What each worker of a process group does."""
    (folder / f"{rank()}.json").write_text(json.dumps(losses_of(spec, storage)))


def test_the_loss_is_shared_out_as_asked(ring: Ring) -> None:
    spec, storage, teacher = ring
    rows = read_split(storage, prepared_folder(spec, storage), "test", ("id",)).slice(0, 3)
    outputs, batch = torch.randn(3, 10), WORKLOADS["vision"].tensors(rows)

    def labels(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return torch.tensor([1.0, 2.0, 3.0])

    with Registry(storage, "large").open(teacher) as folder:
        wanted = version.read(folder).model(batch)
    apart = WORKLOADS["vision"].apart
    assert apart is not None
    given = taught(labels, student(spec, share=0.25, temperature=3.0), storage, CPU)(outputs, batch)
    by_hand = 0.75 * labels(outputs, batch) + 0.25 * apart(outputs, wanted, batch, 3.0)
    torch.testing.assert_close(given, by_hand)
    assert taught(labels, student(spec), storage, CPU) is labels


def test_every_layout_learns_the_same_from_it(ring: Ring, tmp_path: Path) -> None:
    spec, storage, _ = ring
    alone = losses_of(student(spec, share=0.9), storage)
    assert alone[1] < alone[0]
    assert alone[0] != losses_of(student(spec), storage)[0]
    for layout in ({"pipeline": 2, "micro_batches": 2}, {"shard": 2}):
        work = partial(write_losses, spec=student(spec, layout, share=0.9), storage=storage)
        run_together(2, work, tmp_path)
        for worker in range(2):
            assert json.loads((tmp_path / f"{worker}.json").read_text()) == pytest.approx(alone, rel=1e-5)


def test_what_a_run_learns_from_is_in_its_key(ring: Ring) -> None:
    spec, storage, teacher = ring
    by_alias = train_inputs(student(spec, share=0.5), storage)
    assert by_alias.spec["teacher"] == teacher
    assert by_alias.key != train_inputs(student(spec), storage).key
    assert by_alias.key != train_inputs(student(spec, share=0.6), storage).key


def test_a_teacher_that_is_not_there_is_named(ring: Ring) -> None:
    spec, storage, _ = ring
    with pytest.raises(RegistryError, match="'challenger' is no version or alias of 'large'"):
        teacher_of(student(spec, version="challenger"), storage)


def test_an_alias_of_its_own_model_would_change_with_it(ring: Ring) -> None:
    spec, storage, teacher = ring
    own = student(spec.model_copy(update={"name": "large"}), model=None, version="champion")
    with pytest.raises(SpecError, match=rf"would teach the next run\. .* train\.distill\.version={teacher}"):
        teacher_of(own, storage)
    named = teacher_of(student(spec.model_copy(update={"name": "large"}), model=None, version=teacher), storage)
    assert named is not None
    assert named.version == teacher


def test_a_teacher_of_other_rows_is_refused(ring: Ring) -> None:
    spec, storage, _ = ring
    taught_by = student(spec, share=0.5)
    check_teacher(taught_by, storage, prepared_folder(spec, storage))
    check_teacher(student(spec), storage, "prepared/none")
    other = spec.model_copy(
        update={
            "prepare": spec.prepare.model_copy(update={"split": spec.prepare.split.model_copy(update={"test": 0.3})})
        }
    )
    prepare.run(other, storage)
    with pytest.raises(SpecError, match=r"of 'large' reads other rows than those in prepared/vision/"):
        check_teacher(taught_by, storage, prepared_folder(other, storage))


def test_where_nothing_can_be_learned_is_told_before_a_worker_starts(ring: Ring) -> None:
    films = load_ring(SPECS / "recommender.yaml", ["train.distill={version: x}"])
    with pytest.raises(SpecError, match="a recommender model cannot learn from another one's answers"):
        check(films)
    text = load_ring(SPECS / "language.yaml", ["train.distill={model: big, version: x}", "layout={context: 2}"])
    with pytest.raises(SpecError, match=r"layout\.context=2 splits each row .* give layout\.context=1"):
        check(text)
