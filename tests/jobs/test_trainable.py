"""Frozen weights and changes of low rank on every layout that takes them, published as plain models."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import SpecError
from cluster.registry import Registry
from cluster.spec import with_values
from cluster.storage import Storage
from jobs import prepare, version
from jobs.export import Source, export
from jobs.fit import EpochReport, check, fit
from jobs.lineage import prepared_folder, train_inputs
from jobs.parallel.checkpoint import Checkpoints
from jobs.parallel.collectives import rank
from jobs.prepared import read_transform
from jobs.spec import RingSpec
from jobs.train import plan
from jobs.trainable import check_trainable, trained_model
from jobs.workloads import language
from tests.jobs.hugging_face_models import loaded
from tests.jobs.parallel.workers import run_together
from tests.jobs.published import publish
from tests.jobs.test_start import spec_of, write_texts

Ring = tuple[RingSpec, Storage, str]
LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Ring:
    """A spec that starts from a published version, its storage, and the version."""
    torch.set_num_threads(1)
    storage = Storage(str(tmp_path_factory.mktemp("texts")))
    write_texts(storage)
    before = publish(spec_of(storage, "before"), storage)
    spec = spec_of(storage, start={"model": "before", "version": before})
    prepare.run(spec, storage)
    return spec, storage, before


def changed(spec: RingSpec, **values: Any) -> RingSpec:
    return with_values(spec, {key.replace("__", "."): value for key, value in values.items()})


def reports_of(spec: RingSpec, storage: Storage, checkpoints: Checkpoints | None = None) -> list[EpochReport]:
    reports: list[EpochReport] = []
    fit(spec, storage, prepared_folder(spec, storage), checkpoints, reports.append)
    return reports


def curve_of(spec: RingSpec, storage: Storage) -> list[list[float]]:
    """Loss, gradient norm and validation of each epoch."""
    return [[one.loss, one.gradient_norm, one.metrics["bits_per_byte"]] for one in reports_of(spec, storage)]


def write_curves(place: Path, specs: list[RingSpec], storage: Storage) -> None:
    """What each worker of a process group does."""
    (place / f"{rank()}.json").write_text(json.dumps([curve_of(spec, storage) for spec in specs]))


def weights_of(storage: Storage, name: str, of: str) -> dict[str, torch.Tensor]:
    with Registry(storage, name).open(of) as path:
        return dict(version.read(path).model.state_dict())


def trained(spec: RingSpec, storage: Storage, run: str) -> dict[str, torch.Tensor]:
    """The weights that would be published."""
    checkpoints = Checkpoints(storage, f"checkpoints/texts/{run}")
    reports_of(spec, storage, checkpoints)
    transform = read_transform(storage, prepared_folder(spec, storage))
    return dict(trained_model(spec, transform, checkpoints, checkpoints.steps()[-1]).state_dict())


def test_frozen_weights_stay_as_they_start_and_the_others_move(ring: Ring) -> None:
    spec, storage, before = ring
    start = weights_of(storage, "before", before)
    spec = changed(spec, train__freeze=["embedding.*", "layer0.*", "*norm*"], train__ema_decay=0.5)
    check_trainable(spec, storage, prepared_folder(spec, storage))
    found = trained(spec, storage, "frozen")
    frozen = {name for name, weight in found.items() if torch.equal(weight, start[name])}
    assert frozen == {name for name in start if name.startswith(("embedding", "layer0")) or "norm" in name}


def test_a_small_change_is_learned_and_published_as_plain_weights(ring: Ring, tmp_path: Path) -> None:
    spec, storage, before = ring
    spec = changed(spec, name="tuned", train__lora=LORA)
    name = publish(spec, storage)
    first, last = (report.metrics["bits_per_byte"] for report in reports_of(spec, storage))
    assert last < first
    start, found = weights_of(storage, "before", before), weights_of(storage, "tuned", name)
    assert set(start) == set(found)
    for weight, value in found.items():
        if "norm" in weight or not weight.startswith("layer"):
            assert torch.equal(value, start[weight]), weight
        else:
            assert torch.linalg.matrix_rank(value - start[weight], rtol=1e-3) == LORA["rank"], weight
    export(Source(Registry(storage, "tuned"), name), str(tmp_path / "out"))
    tokens = torch.randint(0, 257, (2, 20))
    with Registry(storage, "tuned").open(name) as folder, torch.no_grad():
        ours = version.read(folder).model({"token": tokens, "position": torch.arange(20).expand(2, -1)})
    torch.testing.assert_close(loaded(tmp_path / "out")(tokens).logits, ours, rtol=0, atol=1e-5)


def test_what_was_left_out_of_the_start_is_trained_beside_the_change(ring: Ring) -> None:
    spec, storage, before = ring
    spec = changed(spec, train__lora=LORA, train__start__leave_out=["head.output.weight"])
    check_trainable(spec, storage, prepared_folder(spec, storage))
    found = trained(spec, storage, "new-head")
    torch.manual_seed(spec.seed)
    drawn = language.build(spec.workload, read_transform(storage, prepared_folder(spec, storage))).state_dict()  # type: ignore[arg-type]
    assert not torch.equal(found["head.output.weight"], drawn["head.output.weight"])
    assert torch.equal(found["head.norm.weight"], weights_of(storage, "before", before)["head.norm.weight"])


FROZEN = {"train__freeze": ["embedding.*", "layer0.*", "*norm*"]}
TRAINED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    *((FROZEN, layout) for layout in ({"replicate": 2}, {"tensor": 2, "sequence_parallel": True}, {"context": 2})),
    *(({"train__lora": LORA}, layout) for layout in ({"replicate": 2}, {"shard": 2}, {"context": 2})),
    (FROZEN, {"shard": 2}),
]


def test_every_layout_that_takes_it_trains_alike(ring: Ring, tmp_path: Path) -> None:
    spec, storage, _ = ring
    specs = [changed(spec, layout=layout, **train) for train, layout in TRAINED]
    for one in specs:
        check(one)
    run_together(2, partial(write_curves, specs=specs, storage=storage), tmp_path)
    frozen, adapted = (curve_of(changed(spec, **train), storage) for train in (FROZEN, {"train__lora": LORA}))
    for worker in range(2):
        curves = json.loads((tmp_path / f"{worker}.json").read_text())
        for (train, layout), found in zip(TRAINED, curves, strict=True):
            for epoch, wanted in zip(found, frozen if train is FROZEN else adapted, strict=True):
                assert epoch == pytest.approx(wanted, rel=1e-5), (train, layout)


@pytest.mark.parametrize("train", [{"train__freeze": ["layer0.*"]}, {"train__lora": LORA}], ids=["frozen", "lora"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(ring: Ring, train: dict[str, Any]) -> None:
    spec, storage, _ = ring
    spec = changed(spec, train__keep_checkpoints=9, **train)
    whole = Checkpoints(storage, f"checkpoints/texts/whole-{'lora' in str(train)}")
    expected = reports_of(spec, storage, whole)
    storage.remove(whole.at(whole.steps()[-1]))
    again = reports_of(spec, storage, whole)
    assert [one.step_losses for one in again] == [one.step_losses for one in expected[1:]]
    assert again[-1].metrics == expected[-1].metrics


def test_both_are_in_the_key_of_a_run_and_in_its_plan(ring: Ring) -> None:
    spec, storage, _ = ring
    frozen, adapted = changed(spec, train__freeze=["layer0.*"]), changed(spec, train__lora=LORA)
    assert len({train_inputs(one, storage).key for one in (spec, frozen, adapted)}) == 3
    assert "  leave as it is layer0.*\n" in plan(frozen, storage)
    assert "  learn a change of rank 4 beside layer*.attention.*, layer*.feed_forward.*\n" in plan(adapted, storage)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train__freeze": ["head.*"], "train__lora": LORA}, r"train\.lora freezes all .*; leave train\.freeze out"),
        ({"train__start": None, "train__lora": LORA}, r"but there are none; say which: train\.start\.version=champion"),
        (
            {"train__lora": LORA, "layout": {"pipeline": 2, "micro_batches": 2}},
            r"train\.lora: layout\.pipeline=2 sends gradients .*; give layout\.pipeline=1",
        ),
        (
            {"train__freeze": ["head.*"], "layout": {"pipeline": 2, "micro_batches": 2}},
            r"train\.freeze: layout\.pipeline=2 sends gradients",
        ),
        ({"train__lora": LORA, "layout": {"tensor": 2}}, r"train\.lora: layout\.tensor=2 splits the very layers"),
    ],
)
def test_what_does_not_go_together_is_refused(ring: Ring, values: dict[str, Any], message: str) -> None:
    check(ring[0])
    with pytest.raises(SpecError, match=message):
        check(changed(ring[0], **values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train__freeze": ["layer7.*"]}, r"train\.freeze: no name matches 'layer7\.\*'"),
        ({"train__lora": {"targets": ["query"]}}, r"train\.lora\.targets: no name matches 'query'"),
        ({"train__freeze": ["*"]}, r"train\.freeze=\['\*'\] matches all weights, so that nothing is left to train"),
    ],
)
def test_patterns_are_checked_before_a_worker_starts(ring: Ring, values: dict[str, Any], message: str) -> None:
    spec, storage, _ = ring
    with pytest.raises(SpecError, match=message):
        check_trainable(changed(spec, **values), storage, prepared_folder(spec, storage))
