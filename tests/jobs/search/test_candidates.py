from pathlib import Path

import pytest

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.spec import with_values
from jobs.elastic import check_bounds
from jobs.fit import check
from jobs.search.candidates import candidates, check_listed, chosen, gangs
from jobs.search.layouts import legal_layouts
from jobs.search.ranking import Outlook
from jobs.spec import RingSpec, load_ring

SPECS = Path(__file__).parents[3] / "jobs/specs"


def spec_of(name: str, *overrides: str) -> RingSpec:
    return load_ring(SPECS / f"{name}.yaml", ["storage=/nowhere", *overrides])


def forecast(memory_bytes: int = 1, **layout: int) -> Outlook:
    return Outlook(Layout(**layout), memory_bytes, 1.0)


def test_all_are_those_of_every_divisor_of_the_devices() -> None:
    spec = spec_of("language", "tune.layouts=all")
    legal, refused = candidates(spec, 4, 4, check)
    assert {layout.num_workers for layout in legal} == {1, 2, 4}
    assert set(legal) == {layout for size in (1, 2, 4) for layout in legal_layouts(spec, size, 4)[0]}
    assert refused


def test_a_layout_must_do_for_every_point_of_the_space() -> None:
    space = "tune.space={train.batch_size: [32, 6], workload.num_heads: [4, 2]}"
    legal, refused = candidates(spec_of("language", "tune.layouts=all", "tune.num_trials=1", space), 4, 4, check)
    assert all(6 % (layout.num_replicas * layout.accumulation * layout.micro_batches) == 0 for layout in legal)
    assert any("train.batch_size=6 rows do not divide" in each.reason for each in refused)


def test_a_space_that_is_not_searched_restricts_no_layout() -> None:
    spec = spec_of("language", "tune.layouts=all", "tune.space={train.batch_size: [32, 6], no.key: [1]}")
    assert candidates(spec, 4, 4, check) == candidates(spec_of("language", "tune.layouts=all"), 4, 4, check)


def test_listed_layouts_are_taken_with_the_precision_of_the_spec() -> None:
    spec = spec_of("language", "tune.layouts=[{replicate: 2}, {shard: 4}]", "layout.precision=bf16")
    found, refused = candidates(spec, 4, 4, check)
    assert found == [Layout(replicate=2, precision="bf16"), Layout(shard=4, precision="bf16")]
    assert refused == []


@pytest.mark.parametrize(
    ("layouts", "message"),
    [
        ("[]", "tune.layouts lists none; give layouts, or `all`, or leave it out"),
        ("[{replicate: 2}, {tensor: 3}]", r"tune.layouts.1 \(tensor=3\): layout.tensor=3 does not divide"),
        ("[{replicate: 8}]", r"tune.layouts.0 \(replicate=8\) needs 8 devices, there are 4; lower an axis"),
        ("[{tensor: 4}]", "a tensor group stands on one node, which has 3 devices"),
        ("[{replicate: 3}]", r"tune.layouts.0 \(replicate=3\): train.batch_size=32 rows do not divide"),
    ],
)
def test_a_listed_layout_that_cannot_be_is_refused(layouts: str, message: str) -> None:
    spec = spec_of("language", f"tune.layouts={layouts}")
    assert isinstance(spec.tune.layouts, tuple)
    with pytest.raises(SpecError, match=message):
        check_listed(spec, spec.tune.layouts, check, 4, 3)
    with pytest.raises(SpecError):
        candidates(spec, 4, 3, check)


def test_a_layout_that_another_section_forbids_is_none() -> None:
    legal, refused = candidates(spec_of("language", "tune.layouts=all", "train.freeze=[layer0.*]"), 2, 2, check)
    assert all(layout.pipeline == 1 for layout in legal)
    assert any("one whose weights are all frozen has none" in each.reason for each in refused)


def test_layouts_out_of_the_bounds_of_an_elastic_run_are_none() -> None:
    def bounded(spec: RingSpec) -> None:
        check(spec)
        check_bounds(spec)

    spec = spec_of("language", "tune.layouts=all", "train.elastic={min_workers: 2, max_workers: 4}")
    legal, refused = candidates(spec, 8, 8, bounded)
    assert {layout.num_workers for layout in legal} == {2, 4}
    reasons = {each.layout.num_workers: each.reason for each in refused if "train.elastic" in each.reason}
    assert reasons.keys() == {1, 8}
    assert "has 8 workers, which is not between min_workers=2 and max_workers=4" in reasons[8]
    with pytest.raises(SpecError, match=r"none of \d+ layouts of 5 devices.* can be trained on; .* has 1 workers"):
        candidates(with_values(spec, {"train.elastic.max_workers": 3}), 5, 5, bounded)


def test_where_there_is_no_device_it_is_told() -> None:
    with pytest.raises(SpecError, match="there is no layout for the 0 devices at hand"):
        candidates(spec_of("language", "tune.layouts=all"), 0, 0, check)


def test_the_fastest_are_measured_two_of_a_shape() -> None:
    ranked = [forecast(replicate=2, accumulation=passes) for passes in (1, 2, 4)]
    ranked += [forecast(shard=2), forecast(), forecast(tensor=2)]
    assert chosen(ranked, 4) == [ranked[0], ranked[1], ranked[3], ranked[4]]
    assert chosen(ranked, 9) == [each for each in ranked if each is not ranked[2]]


def test_layouts_that_stand_on_the_same_reservation_share_workers_from_the_smallest_on() -> None:
    small, middle, large = (forecast(size, replicate=4, accumulation=size) for size in (1, 2, 4))
    other = forecast(1, tensor=4)
    assert gangs([large, small, other, middle], 4) == [[small, middle, large], [other]]


def test_there_are_as_many_groups_of_a_size_as_there_is_room_for() -> None:
    small, middle, large = (forecast(size, replicate=2, accumulation=size) for size in (1, 2, 4))
    assert gangs([small, middle, large], 5) == [[small, large], [middle]]
    assert gangs([small], 8) == [[small]]
    assert gangs([forecast(replicate=4)], 2) == [[forecast(replicate=4)]]
