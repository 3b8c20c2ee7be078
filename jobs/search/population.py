"""Population-based training (Jaderberg et al., 2017): who takes over whose weights, and with which values.

After every so many epochs all members are compared. Those of the lowest quarter go on from the weights of one of the
best quarter, with its values a little changed. All that is drawn follows from the seed, the generation and the member,
and all that is known lies in the members, so that a search which was killed decides again as it did.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from jobs.search.plan import Ancestor
from jobs.search.space import Space, Values, drawn, holds, in_order, moved, own_values
from jobs.search.trial import Stint, Trial, is_open
from jobs.spec import RingSpec

SHARE = 0.25
"""Of the members: so many take over from as many."""
RESAMPLE = 0.25
"""How likely a value is drawn anew rather than changed a little."""


@dataclass(frozen=True)
class Rule:
    """What a search decides by."""

    space: Space
    """In order."""
    own: Mapping[str, Any]
    """See `jobs.search.space.own_values`."""
    seed: int
    metric: str
    mode: str

    @classmethod
    def of(cls, spec: RingSpec) -> "Rule":
        """That of a spec."""
        watched = spec.train.early_stopping
        return cls(in_order(spec.tune.space), own_values(spec), spec.seed, watched.metric, watched.mode)


def ends_of(num_epochs: int, every: int) -> list[int]:
    """The epoch that each generation ends with."""
    return [*range(every, num_epochs, every), num_epochs]


def first_values(rule: Rule, number: int) -> Values:
    """What a member begins with."""
    return explored(rule, {}, Random(f"{rule.seed} {number}"))


def explored(rule: Rule, values: Values, random: Random) -> Values:
    """Values a little away from these; those that are new, and some others, are drawn anew."""
    found: Values = {}
    for key, dimension in rule.space.items():
        if not holds(dimension, {**rule.own, **found}):
            continue
        if key not in values or random.random() < RESAMPLE:
            found[key] = drawn(dimension, random)
        else:
            found[key] = moved(dimension, values[key], random)
    return found


def is_through(trial: Trial, generation: int, end: int, max_failures: int) -> bool:
    """Whether a member has done with a generation, from 0 on, that ends with this epoch, or failed in it for good."""
    if len(trial.stints) > generation + 1:
        return True
    return not is_open(trial, max_failures) and (trial.outcome != "finished" or trial.num_epochs >= end)


def score(trial: Trial, generation: int, end: int, metric: str) -> float | None:
    """What a member that is through with a generation came to; None where it failed, or the metric is no number.

    One that failed may have told of the last epoch and yet have left no checkpoint of it.
    """
    if len(trial.stints) == generation + 1 and trial.outcome != "finished":
        return None
    found = [point[metric] for point in trial.curve if point["num_epochs"] == end]
    return found[0] if found and math.isfinite(found[0]) else None


def sources_of(scores: Mapping[int, float | None], mode: str, random: Mapping[int, Random]) -> dict[int, int]:
    """Which members take over, and from whom (truncation selection): failed ones always, as long as one did not fail.

    Args:
        scores: by member; None of those that failed.
        random: what each draws with.
    """
    sign = 1 if mode == "max" else -1
    ranked = [number for _, number in sorted((-sign * value, n) for n, value in scores.items() if value is not None)]
    failed = [number for number, value in scores.items() if value is None]
    num = max(1, int(SHARE * len(scores))) if len(scores) > 1 else 0
    takers = [*failed, *ranked[len(ranked) - max(num - len(failed), 0) :]]
    best = [number for number in ranked[:num] if number not in takers]
    return {number: random[number].choice(best) for number in sorted(takers)} if best else {}


def next_stints(rule: Rule, trials: Mapping[int, Trial], generation: int, end: int) -> dict[int, Stint]:
    """What each member trains in the next generation; nothing where all failed.

    The same whether or not some of the members have begun it.
    """
    scores = {number: score(trial, generation, end, rule.metric) for number, trial in trials.items()}
    if all(value is None for value in scores.values()):
        return {}
    random = {number: Random(f"{rule.seed} {generation} {number}") for number in trials}
    sources = sources_of(scores, rule.mode, random)
    found = {}
    for number in trials:
        source = sources.get(number, number)
        values = trials[source].stints[generation].values
        if source != number:
            values = explored(rule, values, random[number])
        found[number] = Stint(end, _step_at(trials[source], end), source, values)
    return found


def with_stint(trial: Trial, stint: Stint) -> Trial:
    """The member as it begins a generation: as one that never failed, where it takes over."""
    if stint.source == trial.number:
        return replace(trial, stints=(*trial.stints, stint))
    has_failed = trial.outcome != "finished"
    curve = tuple(point for point in trial.curve if point["num_epochs"] < stint.epoch) if has_failed else trial.curve
    return replace(
        trial,
        values=stint.values,
        curve=curve,
        best=None,
        outcome="under way",
        said="",
        num_deaths=0,
        stints=(*trial.stints, stint),
    )


def lineage(trials: Mapping[int, Trial], number: int) -> tuple[Ancestor, ...]:
    """The values that a member's weights were trained with, from the first epoch on."""
    found: list[Ancestor] = []
    for generation in reversed(range(len(trials[number].stints))):
        stint = trials[number].stints[generation]
        if found and (found[-1].member, found[-1].values) == (number, stint.values):
            found.pop()
        found.append(Ancestor(stint.epoch, number, stint.values))
        number = stint.source
    return tuple(reversed(found))


def _step_at(trial: Trial, end: int) -> int:
    return next(int(point["step"]) for point in trial.curve if point["num_epochs"] == end)
