from pathlib import Path

import pytest

from cluster.errors import SpecError
from jobs.search.check_population import check_handed_over, check_population
from jobs.spec import RingSpec, load_ring

SPEC = Path(__file__).parents[3] / "jobs/specs/recommender.yaml"
RATE = "train.optimizer.learning_rate: {low: 1e-3, high: 1e-1, log: true}"


def spec(space: str = RATE, *overrides: str) -> RingSpec:
    tune = f"tune={{scheduler: pbt, num_trials: 4, num_epochs: 4, perturb_every: 2, space: {{{space}}}}}"
    return load_ring(SPEC, ["storage=/nowhere", "train.num_epochs=8", tune, *overrides])


def by_width(point: RingSpec) -> dict[str, tuple[int, ...]]:
    """A state that depends on the width of the model and on whether an average is kept."""
    dim: int = point.workload.embedding_dim  # type: ignore[union-attr]
    averages = {"average of user": (9, dim)} if point.train.ema_decay else {}
    return {"user": (9, dim), **averages}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.num_trials=1", "tune.num_trials=1 is a population of one, .* give 2 or more, or tune.scheduler=asha"),
        ("tune.num_epochs=9", "tune.num_epochs=9 is more than train.num_epochs=8, .* give at most tune.num_epochs=8"),
        ("tune.perturb_every=4", "tune.perturb_every=4 is not less than tune.num_epochs=4, so no member would ever"),
    ],
)
def test_numbers_that_make_no_population_are_refused(override: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_population(spec(RATE, override))


@pytest.mark.parametrize(
    ("key", "values", "reason"),
    [
        ("train.batch_size", "[64, 128]", "an epoch would have another number of steps; leave it out, or search with"),
        ("train.optimizer.name", "[adam, sgd]", "what an optimizer keeps of the weights means nothing to another one"),
        ("layout.precision", "[fp32, bf16]", "members are compared"),
        ("train.lora.alpha", "[8.0, 16.0]", "the same weights would mean something else"),
        ("train.start.version", "[a, b]", "whatever it started from"),
    ],
)
def test_keys_that_a_checkpoint_cannot_go_on_with_are_refused(key: str, values: str, reason: str) -> None:
    with pytest.raises(SpecError, match=rf"tune.space.{key} cannot be searched with tune.scheduler=pbt: .*{reason}"):
        check_population(spec(f"{RATE}, {key}: {values}"))


def test_a_value_with_which_a_checkpoint_holds_something_else_is_refused_with_what_it_holds() -> None:
    message = (
        r"tune.space.workload.embedding_dim=16 cannot be searched with tune.scheduler=pbt: a checkpoint with it holds "
        r"user \[9, 16\], another one user \[9, 8\], so that no member could go on from another's; leave it out, or"
    )
    with pytest.raises(SpecError, match=message):
        check_handed_over(spec(f"{RATE}, workload.embedding_dim: [8, 16]"), by_width)
    averaged = "train.ema_decay: {choices: [0.9], when: {train.schedule: [cosine]}}, train.schedule: [constant, cosine]"
    with pytest.raises(SpecError, match=r"schedule=cosine .* holds average of user \[9, 32\], another one no average"):
        check_handed_over(spec(averaged), by_width)


def test_what_every_member_has_is_let_through() -> None:
    for space in (RATE, f"{RATE}, train.ema_decay: [0.9, 0.99]", f"workload.embedding_dim: [16], {RATE}"):
        check_population(spec(space))
        check_handed_over(spec(space), by_width)
