"""What an epoch took, on one worker and on several."""

import json
from functools import partial
from pathlib import Path

import pytest

from cluster.layout import Layout
from jobs.parallel.collectives import rank
from jobs.parallel.feed import Feed
from jobs.training_step import TrainingStep
from jobs.usage import Meter, Usage
from tests.jobs.parallel.training import BATCH_SIZE, CPU, NUM_ROWS, parted, sample, source, train_spec
from tests.jobs.parallel.workers import run_together

WHOLE = Usage(1234.5, 2.5e12, 0.381, 0.25, (2**30, 2**31))


def usage_on(layout: Layout, name: str = "language") -> Usage:
    """Of an epoch of all rows, said to take two seconds and 100 operations a row."""
    given = sample(name)
    model = parted(given, layout)
    step, meter = TrainingStep(train_spec("sgd"), model, 10), Meter(model, 100.0)
    num_rows = 0
    for number, rows in enumerate(Feed(source(given), layout, rank(), 0, BATCH_SIZE, CPU).epoch(0, 0)):
        meter.take(rows, partial(step, rows, number, wants_norm=False))
        num_rows += rows.num_rows
    assert num_rows == NUM_ROWS
    return meter.usage(num_rows, 2.0)


def write_usages(folder: Path) -> None:
    layouts = [Layout(shard=2), Layout(tensor=2), Layout(context=2), Layout(pipeline=2, micro_batches=2)]
    usages = [vars(usage_on(layout)) for layout in layouts]
    (folder / f"{rank()}.json").write_text(json.dumps(usages))


def num_tokens() -> float:
    """Of all rows, by the rows themselves: windows of 16 but for the last one."""
    return float(sum(sample("language").rows.column("num_tokens").to_pylist()))


def test_one_worker_counts_rows_and_tokens_and_says_nothing() -> None:
    found = usage_on(Layout())
    assert found.tokens_per_s == num_tokens() / 2
    assert found.flops_per_s == 100 * NUM_ROWS / 2
    assert found.mfu is None
    assert found.step_s == pytest.approx(2 / 5)  # five steps
    assert found.communication == 0.0
    assert len(found.peak_bytes) == 1
    assert found.peak_bytes[0] > 50 * 2**20
    assert usage_on(Layout(accumulation=2)).tokens_per_s == num_tokens() / 2


def test_several_workers_count_every_token_once_and_the_first_hears_them_talk(tmp_path: Path) -> None:
    run_together(2, write_usages, tmp_path)
    first, second = (json.loads((tmp_path / f"{worker}.json").read_text()) for worker in range(2))
    for one, other in zip(first, second, strict=True):
        assert one["tokens_per_s"] == other["tokens_per_s"] == num_tokens() / 2
        assert 0 < one["communication"] < 1
        assert other["communication"] is None
        assert one["peak_bytes"] == other["peak_bytes"]
        assert len(one["peak_bytes"]) == 2


def test_rows_that_are_not_made_of_tokens_have_none() -> None:
    found = usage_on(Layout(), "tabular")
    assert found.tokens_per_s is None
    assert "tokens" not in found.line()
    assert "train/tokens_per_s" not in found.scalars()


def test_it_is_told_in_a_few_words_and_as_numbers() -> None:
    assert WHOLE.line() == "1,234 tokens/s  2.5 TFLOP/s  MFU 38.1%  communication 25%  2.00 GiB"
    assert Usage(None, None, None, None, (2**29,)).line() == "0.50 GiB"
    assert WHOLE.scalars() == {
        "train/tokens_per_s": 1234.5,
        "train/flops_per_s": 2.5e12,
        "train/mfu": 0.381,
        "train/communication": 0.25,
        "train/peak_bytes": float(2**31),
    }


def test_the_peak_of_a_gpu_makes_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.usage.peak_flops", lambda device: 1e4)
    assert usage_on(Layout()).mfu == pytest.approx(100 * NUM_ROWS / 2 / 1e4)
