from pathlib import Path

from cluster.layout import Layout
from jobs.search.ranking import by_shape
from jobs.spec import load_ring

SPEC = load_ring(Path(__file__).parents[3] / "jobs/specs/language.yaml", ["storage=/nowhere"])


def test_without_a_forecast_the_most_workers_that_exchange_the_least_come_first() -> None:
    layouts = [
        Layout(),
        Layout(replicate=2, recompute=True),
        Layout(tensor=2),
        Layout(pipeline=2, micro_batches=8),
        Layout(replicate=2, accumulation=4),
        Layout(replicate=2),
        Layout(shard=2),
    ]
    ranking = by_shape(SPEC, layouts)
    assert [each.layout.line() for each in ranking.fits] == [
        "replicate=2",
        "replicate=2 accumulation=4",
        "shard=2",
        "tensor=2",
        "pipeline=2 micro_batches=8",
        "replicate=2 recompute=true",
        "one worker",
    ]
    assert ranking.unfit == ()
    assert {(each.memory_bytes, each.step_s) for each in ranking.fits} == {(None, None)}
