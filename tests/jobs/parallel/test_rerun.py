"""Two runs of one seed and one layout are equal to the bit, also where chance is asked for and weights are averaged."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cluster.layout import Layout
from jobs.parallel.collectives import rank
from jobs.parallel.feed import Feed
from jobs.training_step import TrainingStep
from tests.jobs.parallel.training import BATCH_SIZE, CPU, NUM_STEPS, parted, sample, source, train_spec
from tests.jobs.parallel.workers import run_together

SAMPLES = ("vision_float64_augmented", "tabular_augmented", "language_augmented")


def train(folder: Path, layout: Layout, seed: int) -> None:
    """Two epochs of each sample as one worker of the layout; it keeps its weights, and all that its optimizer kept."""
    spec = train_spec("adamw").model_copy(update={"ema_decay": 0.9})
    found: dict[str, list[Tensor]] = {}
    for name in SAMPLES:
        given = sample(name)
        model = parted(given, layout)
        step = TrainingStep(spec, model, NUM_STEPS)
        feed = Feed(source(given), layout, rank(), seed, BATCH_SIZE, CPU)
        number = 0
        for epoch in range(2):
            for rows in feed.epoch(epoch, 0):
                step(rows, number, wants_norm=False)
                number += 1
        kept = [value for values in step.optimizer.state.values() for value in values.values()]
        found[name] = [local(value) for value in (*model.model.parameters(), *kept)]
    torch.save(found, folder / f"{seed}, {rank()}.pt")


def local(tensor: Tensor) -> Tensor:
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach().clone()


@pytest.mark.equivalence
def test_a_rerun_is_equal_to_the_bit_and_another_seed_is_not(tmp_path: Path) -> None:
    layout = Layout(shard=2)
    runs = {}
    for run, seed in (("first", 0), ("again", 0), ("other", 1)):
        folder = tmp_path / run
        folder.mkdir()
        run_together(2, partial(train, layout=layout, seed=seed), folder)
        runs[run] = [torch.load(folder / f"{seed}, {worker}.pt") for worker in range(2)]
    torch.testing.assert_close(runs["again"], runs["first"], rtol=0, atol=0)
    for name in SAMPLES:
        assert len(runs["first"][0][name]) > 20
        assert any(not torch.equal(*pair) for pair in zip(runs["first"][0][name], runs["other"][0][name], strict=True))
