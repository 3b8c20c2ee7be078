import pytest
from pydantic import ValidationError

from cluster.errors import SpecError
from cluster.layout import Layout


def test_a_layout_needs_as_many_workers_as_it_has_replicas() -> None:
    assert Layout(replicate=3).num_workers == 3


def test_a_batch_that_divides_over_the_replicas_passes() -> None:
    Layout(replicate=4).check_batch(256)


@pytest.mark.parametrize(("replicate", "batch", "way_out"), [(3, 256, 255), (4, 2, 4)])
def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(replicate: int, batch: int, way_out: int) -> None:
    with pytest.raises(SpecError) as caught:
        Layout(replicate=replicate).check_batch(batch)
    assert f"train.batch_size={batch} rows do not divide over layout.replicate={replicate}" in str(caught.value)
    assert f"give train.batch_size={way_out}" in str(caught.value)
    Layout(replicate=replicate).check_batch(way_out)


def test_no_replica_is_no_layout() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Layout(replicate=0)
