from dataclasses import FrozenInstanceError

import pytest

from jobs.workloads.partition import Partition


def test_a_model_that_says_nothing_is_one_link_without_units_or_splits() -> None:
    silent = Partition()
    assert silent.num_links == 1
    assert not any((silent.units, silent.tensor, silent.tensor_divides, silent.sequence, silent.attention))
    assert not silent.refused


def test_two_partitions_share_no_defaults() -> None:
    assert Partition().tensor is not Partition().tensor


def test_a_partition_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Partition().num_links = 2  # type: ignore[misc]
