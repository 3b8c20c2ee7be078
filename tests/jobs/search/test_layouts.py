from pathlib import Path
from typing import Any

import pytest

from jobs.search.layouts import legal_layouts, why_refused
from jobs.spec import RingSpec, load_ring

SPECS = Path(__file__).parents[3] / "jobs/specs"


def spec_of(name: str, *overrides: str) -> RingSpec:
    return load_ring(SPECS / f"{name}.yaml", overrides)


def shapes(layouts: list[Any]) -> set[tuple[int, ...]]:
    return {layout.sizes for layout in layouts}


def test_every_layout_has_all_workers_and_passes_the_checks() -> None:
    spec = spec_of("language")
    legal, refused = legal_layouts(spec, 8, 8)
    assert len(legal) > 100
    assert all(layout.num_workers == 8 for layout in legal)
    assert all(why_refused(spec, layout, 8) == "" for layout in legal)
    assert len(set(legal)) == len(legal)
    assert shapes(legal).isdisjoint(shapes([each.layout for each in refused]))


def test_all_shapes_are_told_legal_or_refused() -> None:
    legal, refused = legal_layouts(spec_of("language"), 8, 8)
    assert len(shapes(legal) | shapes([each.layout for each in refused])) == 35  # 8 = 2 x 2 x 2 over five axes


def test_a_shape_is_refused_once_with_the_reason_of_the_strategy() -> None:
    _, refused = legal_layouts(spec_of("language"), 8, 8)
    reasons = {each.layout.sizes: each.reason for each in refused}
    tensor_of_8 = reasons[(1, 1, 1, 1, 8)]
    assert tensor_of_8 == (
        "layout.tensor=8 does not divide workload.num_heads=4; give one of 1, 2, or another workload.num_heads"
    )


def test_a_tensor_group_stays_on_a_node() -> None:
    legal, refused = legal_layouts(spec_of("language"), 4, 1)
    assert all(layout.tensor == 1 for layout in legal)
    assert any("a tensor group stands on one node, which has 1 devices" in each.reason for each in refused)


@pytest.mark.parametrize(("name", "axes"), [("recommender", {"replicate", "shard"}), ("vision", {"pipeline"})])
def test_a_model_that_cannot_be_split_is_not(name: str, axes: set[str]) -> None:
    legal, _ = legal_layouts(spec_of(name), 4, 4)
    assert legal
    assert all(layout.tensor == layout.context == 1 for layout in legal)
    assert any(all(getattr(layout, axis) > 1 for axis in axes) for layout in legal)


def test_the_precision_is_the_specs() -> None:
    legal, _ = legal_layouts(spec_of("language", "layout.precision=bf16"), 2, 2)
    assert {layout.precision for layout in legal} == {"bf16"}
