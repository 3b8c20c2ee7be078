"""What every workload has to keep of the contract, whatever its model."""

from fnmatch import fnmatchcase
from inspect import getmembers, isfunction

import pyarrow as pa
import pytest
import torch

from cluster.layout import Layout
from jobs.workloads import WORKLOADS, Workload, event_keys, recommender
from jobs.workloads.chain import Chain
from jobs.workloads.recommender import RecommenderSpec
from tests.jobs.workloads.prepared import RAW, SPECS, prepare


def test_every_kind_is_registered_under_its_name() -> None:
    specs = {**SPECS, "recommender": RecommenderSpec()}
    assert {kind: specs[kind].kind for kind in WORKLOADS} == {kind: kind for kind in WORKLOADS}


@pytest.mark.parametrize("kind", WORKLOADS)
def test_every_workload_answers_the_whole_contract(kind: str) -> None:
    names = [name for name, _ in getmembers(Workload, isfunction) if not name.startswith("_")]
    names += list(Workload.__annotations__)
    assert len(names) > 15
    assert [name for name in names if not hasattr(WORKLOADS[kind], name)] == []
    assert WORKLOADS[kind].lower_is_better <= set(WORKLOADS[kind].metrics)


AUGMENTS = {
    "vision": {"rotate_degrees": 20.0, "noise": 0.1},
    "tabular": {"noise": 0.1, "swap": 0.2, "drop": 0.2},
    "language": {"replace": 0.3},
    "text": {"replace": 0.3},
    "tagging": {"replace": 0.3},
}
"""What each workload can change by chance, and the entries that it may change."""
CHANGED = {
    "vision": {"pixels"},
    "tabular": {"numbers", "is_missing", "categories"},
    "language": {"token"},
    "text": {"token"},
    "tagging": {"token"},
}


@pytest.mark.parametrize("kind", AUGMENTS)
def test_training_changes_rows_by_chance_only_where_the_spec_says_so_and_no_answers(kind: str) -> None:
    workload, spec = WORKLOADS[kind], SPECS[kind]
    train = prepare(RAW[kind], spec).train.table
    batch = {**workload.tensors(train), "key": torch.arange(train.num_rows)}
    before = {name: values.clone() for name, values in batch.items()}
    assert workload.augment(spec, batch, dict) is batch
    asked = type(spec).model_validate(spec.model_dump() | {"augment": AUGMENTS[kind]})
    other = workload.tensors(train.take(list(range(train.num_rows))[::-1]))
    found = workload.augment(asked, batch, lambda: other)
    assert {name for name in found if not torch.equal(found[name], before[name])} == CHANGED[kind]
    assert {name: values.dtype for name, values in found.items()} == {n: v.dtype for n, v in before.items()}
    assert {name: values.shape for name, values in found.items()} == {n: v.shape for n, v in before.items()}
    assert all(torch.equal(batch[name], values) for name, values in before.items())


def test_events_are_told_apart_by_the_ties_that_they_have() -> None:
    """A window has a place in its document, a document has none."""
    assert event_keys(RecommenderSpec()) == recommender.ties
    assert event_keys(SPECS["language"]) == ("document",)
    assert event_keys(SPECS["tabular"]) == event_keys(SPECS["vision"]) == ("id",)


@pytest.mark.parametrize("kind", SPECS)
def test_no_two_training_rows_share_their_ties_and_each_keeps_its_events_split(kind: str) -> None:
    prepared = prepare(RAW[kind], SPECS[kind])
    rows = pa.concat_tables([prepared.train.table, prepared.valid, prepared.test])
    ties = list(zip(*(rows.column(name).to_pylist() for name in WORKLOADS[kind].ties), strict=True))
    assert len(set(ties)) == len(ties) >= 40
    keys = event_keys(SPECS[kind])
    events = set(zip(*(rows.column(name).to_pylist() for name in (*keys, "split")), strict=True))
    assert len(events) == 40


@pytest.mark.parametrize("kind", SPECS)
def test_what_unfolding_depends_on_is_declared(kind: str) -> None:
    """Another value of a key that is not named leaves the rows as they are, so that they need not be prepared again."""
    workload, spec = WORKLOADS[kind], SPECS[kind]
    assert set(workload.unfolds_by) <= set(type(spec).model_fields)
    numbers = {name: value for name, value in spec.model_dump().items() if type(value) is int}
    for name, value in numbers.items():
        changed = spec.model_copy(update={name: value * 2})
        same = workload.unfold(changed, RAW[kind]) == workload.unfold(spec, RAW[kind])
        assert same == (name not in workload.unfolds_by), name


@pytest.mark.parametrize("kind", SPECS)
def test_a_partition_speaks_of_modules_and_links_that_are_there(kind: str) -> None:
    workload, spec = WORKLOADS[kind], SPECS[kind]
    model = workload.build(spec, prepare(RAW[kind], spec).transform)
    partition = workload.partition(spec)
    assert partition.num_links == (len(model) if isinstance(model, Chain) else 1)
    paths = [path for path, _ in model.named_modules()]
    for pattern in (*partition.units, *partition.tensor):
        parts = pattern.split(".")
        found = [path for path in paths if len(path.split(".")) == len(parts) and fnmatchcase(path, pattern)]
        assert found, pattern
    assert set(partition.refused) <= set(Layout.model_fields)


@pytest.mark.parametrize("kind", SPECS)
def test_every_weight_belongs_to_a_unit_or_to_the_model_itself(kind: str) -> None:
    workload, spec = WORKLOADS[kind], SPECS[kind]
    model = workload.build(spec, prepare(RAW[kind], spec).transform)
    units = workload.partition(spec).units
    for name, _ in model.named_parameters():
        owners = [unit for unit in units if fnmatchcase(name.split(".")[0], unit)]
        assert len(owners) == 1, name
