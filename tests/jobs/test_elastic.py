"""Which layouts an elastic run may have, for every number of replicas: by the rules, not by the code."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.storage import Storage
from jobs.elastic import elastic_layouts
from jobs.fit import check
from jobs.layout_forecast import ByForecast, forecaster_of
from jobs.search.forecast import FILLED, Forecast, TooLarge
from jobs.search.ranking import Outlook, Ranking, Unfit
from jobs.spec import RingSpec, load_ring
from tests.jobs.search.test_forecast import device

SPEC = Path(__file__).parents[2] / "jobs/specs/language.yaml"
MODEL = "workload={kind: language, context_length: 16, num_layers: 4, hidden_dim: 32, num_heads: 4, num_kv_heads: 2, \
feed_forward_dim: 64}"


def spec(layout: str, elastic: str, batch_size: int = 48, *more: str) -> RingSpec:
    return load_ring(
        SPEC,
        [
            "storage=/nowhere",
            MODEL,
            *more,
            f"layout={layout}",
            f"train.elastic={elastic}",
            f"train.batch_size={batch_size}",
        ],
    )


def least_parts(parts: int, spec: RingSpec, layouts: Sequence[Layout]) -> Ranking:
    """A forecast that takes weights in fewer parts for too much."""
    unfit = [Unfit(layout, f"takes a {layout.shard}th of it") for layout in layouts if layout.shard < parts]
    return Ranking(
        tuple(Outlook(layout, None, None) for layout in layouts if layout.shard >= parts),
        tuple(sorted(unfit, key=lambda each: -each.layout.shard)),
    )


def taken(found: Forecast | TooLarge) -> int:
    assert isinstance(found, Forecast)
    return found.memory_bytes


def rows_a_pass(layout: Layout, batch_size: int) -> int:
    return batch_size // (layout.num_replicas * layout.accumulation * layout.micro_batches)


def test_fewer_replicas_make_more_passes_of_the_same_batch() -> None:
    found, _ = elastic_layouts(spec("{replicate: 4, tensor: 2}", "{min_workers: 2, max_workers: 8}"))
    assert [layout.line() for layout in found] == [
        "replicate=4 tensor=2",
        "replicate=3 tensor=2 accumulation=2",
        "replicate=2 tensor=2 accumulation=2",
        "tensor=2 accumulation=4",
    ]


def test_more_replicas_make_fewer_passes() -> None:
    found, _ = elastic_layouts(spec("{replicate: 2, accumulation: 4}", "{min_workers: 2, max_workers: 8}"))
    assert {layout.num_replicas: layout.accumulation for layout in found} == {8: 1, 6: 2, 4: 2, 3: 4, 2: 4}


def test_a_number_of_replicas_that_does_not_divide_the_batch_is_passed_over() -> None:
    found, _ = elastic_layouts(spec("{replicate: 2, tensor: 2}", "{min_workers: 2, max_workers: 14}", batch_size=32))
    assert [layout.num_replicas for layout in found] == [4, 2, 1]


def test_weights_are_kept_in_no_fewer_parts_where_replicas_allow() -> None:
    found, _ = elastic_layouts(spec("{replicate: 2, shard: 4}", "{min_workers: 1, max_workers: 16}"))
    assert {layout.num_replicas: (layout.replicate, layout.shard) for layout in found} == {
        16: (4, 4),
        12: (3, 4),
        8: (2, 4),
        6: (1, 6),
        4: (1, 4),
        3: (1, 3),
        2: (1, 2),
        1: (1, 1),
    }


def test_what_does_not_fit_into_memory_is_left_out() -> None:
    given = spec("{shard: 4}", "{min_workers: 1, max_workers: 8}")
    found, unfit = elastic_layouts(given, partial(least_parts, 3))
    assert [layout.shard for layout in found] == [4, 6, 4, 3]
    assert [each.layout.line() for each in unfit] == ["shard=2 accumulation=2", "accumulation=4"]
    message = (
        r"none of the 6 layouts of 1 to 8 workers fits: shard=6 takes a 6th of it; give layout \(shard=4\) more shard"
    )
    with pytest.raises(SpecError, match=message):
        elastic_layouts(given, partial(least_parts, 9))


def test_with_fewer_replicas_more_of_the_weights_do_not_fit_by_the_forecast(tmp_path: Path) -> None:
    """A device of so much memory that a third of the weights and what belongs to them fit, and a half does not."""
    given = spec("{shard: 4}", "{min_workers: 1, max_workers: 4}", 48, "workload.hidden_dim=256")
    forecaster = forecaster_of(given, Storage(str(tmp_path)), device(1000))
    takes = {layout.shard: taken(forecaster.forecast(layout)) for layout in elastic_layouts(given)[0]}
    assert takes[4] < takes[3] < takes[2] < takes[1]
    memory_gib = (takes[2] + takes[3]) / 2 / FILLED / 2**30
    found, unfit = elastic_layouts(given, ByForecast(Storage(str(tmp_path)), device(memory_gib)))
    assert [layout.shard for layout in found] == [4, 3]
    assert [each.layout.shard for each in unfit] == [2, 1]
    with pytest.raises(SpecError, match=r"fits: shard=4 takes .* GiB a device .*, which has 0\.001, .*; give layout"):
        elastic_layouts(given, ByForecast(Storage(str(tmp_path)), device(0.001)))


@pytest.mark.parametrize("elastic", ["{min_workers: 6, max_workers: 8}", "{max_workers: 3}"])
def test_a_layout_out_of_bounds_is_refused(elastic: str) -> None:
    with pytest.raises(
        SpecError, match=r"layout \(replicate=2 tensor=2\) has 4 workers, .*change layout or the bounds"
    ):
        elastic_layouts(spec("{replicate: 2, tensor: 2}", elastic))


def test_bounds_that_leave_nothing_are_refused() -> None:
    with pytest.raises(SpecError, match=r"max_workers=4 is below min_workers=8; raise it"):
        spec("{replicate: 4}", "{min_workers: 8, max_workers: 4}")


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 12),
    st.integers(0, 12),
)
def test_every_layout_is_legal_whole_and_needs_no_more_memory(
    replicate: int, shard: int, tensor: int, pipeline: int, accumulation: int, rows: int, fewer: int, more: int
) -> None:
    own = Layout(
        replicate=replicate,
        shard=shard,
        tensor=tensor,
        pipeline=pipeline,
        micro_batches=pipeline,
        accumulation=accumulation,
    )
    batch = own.num_replicas * accumulation * pipeline * rows
    low, high = max(1, own.num_workers - fewer), own.num_workers + more
    given = spec("{}", f"{{min_workers: 1, max_workers: {high}}}", batch).model_copy(update={"layout": own})
    given = given.model_copy(
        update={
            "train": given.train.model_copy(
                update={"elastic": given.train.elastic.model_copy(update={"min_workers": low})}  # type: ignore[union-attr]
            )
        }
    )
    assume(high >= low)
    found, unfit = elastic_layouts(given)
    assert unfit == []
    of_replica = tensor * pipeline
    assert own in found
    counts = [layout.num_replicas for layout in found]
    divides = [n for n in range(1, batch + 1) if batch % (n * pipeline) == 0 and low <= n * of_replica <= high]
    assert counts == sorted(divides, reverse=True)
    for layout in found:
        check(given.model_copy(update={"layout": layout}))
        assert layout.num_workers == layout.num_replicas * of_replica
        assert (layout.tensor, layout.pipeline, layout.context) == (tensor, pipeline, 1)
        assert rows_a_pass(layout, batch) <= rows_a_pass(own, batch)
        assert layout.shard >= min(shard, layout.num_replicas)
        if layout.accumulation > 1:
            less = [n for n in range(1, layout.accumulation) if (batch // layout.num_replicas // pipeline) % n == 0]
            assert all(batch / (layout.num_replicas * n * pipeline) > rows_a_pass(own, batch) for n in less)
