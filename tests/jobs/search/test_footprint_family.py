from typing import Any

import numpy as np
import pytest

from cluster.layout import Layout
from jobs.search.footprint import Footprint
from jobs.search.footprint_family import SPLIT, WHOLE, Family, mixed, tensor_weights
from tests.jobs.search.models import model_of

NUMBERS = ("output_bytes", "kept_bytes", "forward_peak_bytes", "backward_peak_bytes")


def same(found: Footprint, expected: Footprint, within: float) -> None:
    for there, here in ((found.forward, expected.forward), (found.backward, expected.backward)):
        assert there.names == here.names
        assert np.allclose(there.flops, here.flops, rtol=1e-9)
        assert np.allclose(there.moved, here.moved, rtol=1e-9)
        assert [message.bytes for message in there.messages] == [message.bytes for message in here.messages]
    for name in NUMBERS:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=within), name


@pytest.mark.parametrize(("num_rows", "context"), [(4, 1), (7, 1), (16, 1), (4, 2), (6, 4), (3, 8)])
def test_footprints_follow_from_those_of_few_rows(num_rows: int, context: int) -> None:
    model, points = model_of("wide"), SPLIT if context > 1 else WHOLE
    taken = {point: model._taken(Layout(context=point[1]), point[0]) for point in points}
    expected = model._taken(Layout(context=context), num_rows)
    for place in range(len(expected)):
        family = Family(lambda *point, place=place: taken[point][place], context > 1)
        assert family.is_regular
        same(family.at(num_rows, context), expected[place], within=0.02)


@pytest.mark.parametrize("by_sequence", [False, True])
def test_footprints_of_a_large_tensor_group_follow_from_small_ones(by_sequence: bool) -> None:
    model = model_of("wide_heads")

    def of(size: int) -> list[Footprint]:
        return model._taken(Layout(tensor=size, sequence_parallel=by_sequence), 4)

    for two, four, eight in zip(of(2), of(4), of(8), strict=True):
        same(mixed((two, four), tensor_weights(8)), eight, within=0.05)


def test_a_stretch_that_does_other_things_for_other_rows_is_irregular() -> None:
    model = model_of("wide")
    small: Any = model._taken(Layout(), 2)
    assert not Family(lambda rows, _: small[rows - 2], False).is_regular
