from pathlib import Path

import pytest

from cluster.errors import SpecError
from jobs.fit import check
from jobs.search.check_space import check_space
from jobs.spec import RingSpec, load_ring

SPEC = Path(__file__).parents[3] / "jobs/specs/recommender.yaml"
MOMENTUM = "train.optimizer.momentum"
WHERE_SGD = f"{MOMENTUM}: {{low: 0.1, high: 0.9, when: {{train.optimizer.name: [sgd]}}}}"


def spec(space: str) -> RingSpec:
    return load_ring(SPEC, ["storage=/nowhere", f"tune.space={space}"])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{}", "tune.space is empty but tune.num_trials is not 0"),
        ("{train.batch_size: {choices: []}}", "tune.space.train.batch_size lists no value"),
        ("{train.elastic.max_workers: [1, 8]}", "train.elastic cannot be searched, trials are not elastic"),
        ("{workload.label_smoothing: [0.1]}", "unknown key 'workload.label_smoothing'"),
        (f"{{{MOMENTUM}: {{choices: [0.1], when: {{train.schedule: []}}}}}}", "lists no value, so the key is never"),
        (
            f"{{{MOMENTUM}: {{choices: [0.1], when: {{train.optimizer.name: [sgdd]}}}}}}",
            f"tune.space.{MOMENTUM}.when.train.optimizer.name=sgdd: .*'adam', 'rmsprop' or",
        ),
        (f"{{train.optimizer.name: [adam], {WHERE_SGD}}}", "train.optimizer.name is never sgd; it is one of adam"),
        (
            f"{{{MOMENTUM}: {{choices: [0.5], when: {{train.warmup: [0.1]}}}}, train.warmup: {{low: 0, high: 0.2}}}}",
            "a condition asks for one of some values, but train.warmup is searched in a range; list it",
        ),
        (
            f"{{{MOMENTUM}: {{choices: [1.5], when: {{train.optimizer.name: [sgd]}}}}}}",
            f"{MOMENTUM}=1.5: .*less than 1",
        ),
    ],
)
def test_what_cannot_be_is_refused(space: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_space(spec(space), check)


@pytest.mark.parametrize(
    "space",
    [
        f"{{{WHERE_SGD}, train.optimizer.name: [sgd, adam]}}",
        f"{{{WHERE_SGD}}}",
        "{train.batch_size: {low: 64, high: 256, integer: true, step: 32}}",
        "{layout.precision: [fp32, bf16], workload.dropout: [0.1, 0.2]}",
    ],
)
def test_what_the_spec_takes_is_let_through(space: str) -> None:
    check_space(spec(space), check)


def test_whole_numbers_have_whole_ends() -> None:
    with pytest.raises(SpecError, match="low and high must be whole numbers"):
        spec("{train.batch_size: {low: 1, high: 2.5, integer: true}}")
    with pytest.raises(SpecError, match="step is of whole numbers without log, and leads from low to high"):
        spec("{train.batch_size: {low: 1, high: 4, integer: true, step: 2}}")


def test_every_whole_number_of_a_range_is_looked_at() -> None:
    with pytest.raises(SpecError, match="batch_size=65 rows do not divide over"):
        check_space(spec("{train.batch_size: {low: 64, high: 128, integer: true}}"), check)
