import pytest

from cluster.errors import SpecError
from cluster.spec import with_values
from cluster.storage import Storage
from jobs.check_points import check_points
from jobs.lineage import prepared_folder
from jobs.spec import RingSpec
from jobs.teacher import Teacher
from jobs.version import Version
from tests.jobs.test_start import ring as ring
from tests.jobs.test_start import started


def checked(ring: tuple[RingSpec, Storage, str], spec: RingSpec, space: dict[str, object]) -> None:
    check_points(with_values(spec, {"tune.space": space}), ring[1], prepared_folder(spec, ring[1]))


def test_versions_that_are_there_and_fit_can_be_searched(ring: tuple[RingSpec, Storage, str]) -> None:
    spec, _, name = ring
    own = started(spec, model="before", version="champion")
    checked(ring, own, {"train.start.version": [name], "train.optimizer.learning_rate": [0.1, 0.2]})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.start.version": ["v99"]}, "train.start.version=v99: 'v99' is no version or alias of 'before'"),
        ({"train.start.version": ["NAME", "challenger"]}, "version=challenger: 'challenger' is no version or alias"),
        ({"workload.num_layers": [2, 3]}, r"workload.num_layers=3: train.start: .* does not fit the model"),
    ],
)
def test_what_cannot_begin_is_said_with_the_value(
    ring: tuple[RingSpec, Storage, str], space: dict[str, list[object]], message: str
) -> None:
    spec, _, name = ring
    named = {key: [name if value == "NAME" else value for value in values] for key, values in space.items()}
    with pytest.raises(SpecError, match=rf"^tune\.space\..*{message}"):
        checked(ring, started(spec, model="before", version="champion"), named)


@pytest.mark.parametrize("section", ["start", "distill"])
@pytest.mark.parametrize("own", ["NAME", "champion"])
def test_an_alias_in_the_space_is_refused_with_the_version(
    ring: tuple[RingSpec, Storage, str], section: str, own: str
) -> None:
    spec, _, name = ring
    of = with_values(spec, {f"train.{section}": {"model": "before", "version": name if own == "NAME" else own}})
    message = f"train.{section}.version=champion is an alias, .* give the version: {name}"
    with pytest.raises(SpecError, match=message):
        checked(ring, of, {f"train.{section}.version": [name, "champion"]})
    with pytest.raises(SpecError, match=message):
        checked(ring, with_values(of, {f"train.{section}.version": "champion"}), {f"train.{section}.model": ["before"]})


def test_how_much_is_learned_from_an_alias_can_be_searched_and_the_teacher_is_not_read_again(
    ring: tuple[RingSpec, Storage, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    read_of = Teacher.read

    def counted(teacher: Teacher) -> Version:
        read.append(teacher.version)
        return read_of(teacher)

    monkeypatch.setattr(Teacher, "read", counted)
    spec, _, name = ring
    taught = with_values(spec, {"train.distill": {"model": "before", "version": "champion"}})
    checked(ring, taught, {"train.batch_size": {"low": 8, "high": 64, "integer": True}})
    assert read == []
    checked(ring, taught, {"train.distill.share": [0.3, 0.7], "train.optimizer.learning_rate": [0.1, 0.2]})
    assert read == [name] * 2
