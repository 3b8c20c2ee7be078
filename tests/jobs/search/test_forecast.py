import pytest

from cluster.layout import Layout
from jobs.search.device import Device, Link
from jobs.search.forecast import FILLED, Forecast, Forecaster, TooLarge
from jobs.spec import RingSpec, load_ring
from tests.jobs.search.models import adamw, model_of, sample_of
from tests.jobs.search.test_layouts import SPECS

LINK = Link(latency_us=10, gb_per_s=10)


def device(memory_gib: float) -> Device:
    return Device(
        memory_gib=memory_gib, tflops={"fp32": 0.1}, memory_gb_per_s=50, inside=LINK, between=LINK, source="made up"
    )


def spec_of() -> RingSpec:
    spec = load_ring(SPECS / "language.yaml", ["train.batch_size=16", "layout.replicate=1"])
    return spec.model_copy(update={"workload": sample_of("wide").spec})


def forecaster(memory_gib: float = 1) -> Forecaster:
    return Forecaster(spec_of(), model_of("wide"), adamw, device(memory_gib))


def test_the_fastest_comes_first_and_all_layouts_are_told() -> None:
    found = forecaster().rank(2)
    times = [each.step_s for each in found.fits]
    assert times == sorted(times)
    assert not found.unfit
    assert {each.layout.num_workers for each in found.fits} == {2}
    assert all(each.memory_bytes <= FILLED * 2**30 for each in found.fits)


def test_what_does_not_fit_says_how_much_it_takes_of_how_much() -> None:
    small = forecaster(0.015)
    found = small.forecast(Layout())
    assert isinstance(found, TooLarge)
    assert found.reason.startswith("takes ")
    assert found.reason.endswith("which has 0.015, 90% of them to fill")
    assert isinstance(small.forecast(Layout(shard=2, recompute=True)), Forecast)


def test_weights_alone_can_be_too_much() -> None:
    found = forecaster(0.005).forecast(Layout())
    assert isinstance(found, TooLarge)
    assert "at least, before any activation," in found.reason
    assert "activations" not in found.reason.replace("activation,", "")


def test_those_that_do_not_fit_come_from_the_smallest_on() -> None:
    fits, unfit = forecaster(0.015).of([Layout(replicate=2), Layout(), Layout(shard=2, recompute=True)])
    assert [each.layout for each in fits] == [Layout(shard=2, recompute=True)]
    assert [each.memory_bytes for each in unfit] == sorted(each.memory_bytes for each in unfit)


@pytest.mark.parametrize("layout", [Layout(tensor=2), Layout(pipeline=2, micro_batches=4)])
def test_a_forecast_has_memory_and_time_of_its_parts(layout: Layout) -> None:
    found = forecaster().forecast(layout)
    assert isinstance(found, Forecast)
    assert (found.memory_bytes, found.step_s) == (found.memory.total, found.time.total)
