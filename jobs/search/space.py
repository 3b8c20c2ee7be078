"""The search space of a spec: which keys a trial draws, in which order, and the draw itself as Optuna's define-by-run.

Ray's OptunaSearch hands nested Ray domains on unsampled; a function of the trial has no such trap.
"""

import math
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from cluster.errors import SpecError
from jobs.spec import Choices, ChoicesSpec, Dimension, RangeSpec, RingSpec

Values = dict[str, bool | int | float | str]
Space = Mapping[str, Dimension]
FACTORS = (0.8, 1.2)
LOOKED_AT = 256
"""Whole numbers of a range that are looked at before a trial starts."""


def conditions(dimension: Dimension) -> Mapping[str, Choices]:
    """Keys, each with the values that it must have one of; none where the dimension is always searched."""
    return {} if isinstance(dimension, list) else dimension.when


def listed(dimension: Dimension) -> Choices:
    """The values of a list, or of a range what is looked at before a trial starts, of the type that is drawn.

    That is the two ends, and of whole numbers all, or as many evenly between the ends as are looked at.
    """
    if isinstance(dimension, RangeSpec):
        if not dimension.integer:
            return [dimension.low, dimension.high]
        low, high = int(dimension.low), int(dimension.high)
        num_steps = (high - low) // dimension.step
        skipped = -(-num_steps // LOOKED_AT)
        return [*range(low, high, dimension.step * skipped), high]
    return dimension.choices if isinstance(dimension, ChoicesSpec) else dimension


def in_order(space: Space) -> dict[str, Dimension]:
    """The same keys, each after those that its condition speaks of.

    Raises:
        SpecError: a condition speaks, by way of others, of its own key.
    """
    left, ordered = dict(space), dict[str, Dimension]()
    while left:
        ready = [key for key, dimension in left.items() if left.keys().isdisjoint(conditions(dimension))]
        if not ready:
            raise SpecError(
                f"tune.space: the conditions of {', '.join(left)} wait for each other; leave one `when` out"
            )
        ordered[ready[0]] = left.pop(ready[0])
    return ordered


def own_values(spec: RingSpec) -> Values:
    """What the spec itself says of each key that is searched, or that a condition speaks of."""
    tree = spec.model_dump(mode="json")
    spoken = {key for dimension in spec.tune.space.values() for key in conditions(dimension)}
    return {key: _value_at(tree, key) for key in (*spec.tune.space, *sorted(spoken - spec.tune.space.keys()))}


def sample(trial: Trial, space: Space, own: Mapping[str, Any]) -> Values:
    """Draw one point of the space: a value for each key whose condition holds.

    Args:
        space: `in_order`.
        own: see `own_values`.
    """
    drawn: Values = {}
    for key, dimension in space.items():
        if holds(dimension, {**own, **drawn}):
            drawn[key] = _draw(trial, key, dimension)
    return drawn


def holds(dimension: Dimension, values: Mapping[str, Any]) -> bool:
    """Whether the dimension is searched, where the keys of its condition have these values."""
    return all(values[key] in wanted for key, wanted in conditions(dimension).items())


def examples(space: Space) -> Iterator[tuple[str, Values]]:
    """Each key with each of its `listed` values, and with what its condition, and theirs in turn, ask for first."""
    for key, dimension in space.items():
        for value in listed(dimension):
            yield key, {**_first_held(space, key), key: value}


def distribution(dimension: Dimension) -> BaseDistribution:
    """What Optuna draws from."""
    if not isinstance(dimension, RangeSpec):
        return CategoricalDistribution(listed(dimension))
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=dimension.step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def drawn(dimension: Dimension, random: Random) -> bool | int | float | str:
    """Any of the values that are searched, evenly, or evenly in the logarithm."""
    if not isinstance(dimension, RangeSpec):
        return random.choice(listed(dimension))
    low, high = dimension.low, dimension.high
    if not dimension.integer:
        value = math.exp(random.uniform(math.log(low), math.log(high))) if dimension.log else random.uniform(low, high)
        return min(max(value, low), high)
    if not dimension.log:
        return random.randrange(int(low), int(high) + 1, dimension.step)
    value = math.exp(random.uniform(math.log(low - 0.5), math.log(high + 0.5)))
    return min(max(round(value), int(low)), int(high))


def moved(dimension: Dimension, value: Any, random: Random) -> bool | int | float | str:
    """A value a little away from this one, as Ray's PopulationBasedTraining has it: 0.8 or 1.2 times, or a neighbour in
    the list. At an end of what is searched it may stay; a whole number moves by one step at least.
    """
    if not isinstance(dimension, RangeSpec):
        choices = listed(dimension)
        place = choices.index(value) + random.choice((-1, 1))
        return choices[min(max(place, 0), len(choices) - 1)]
    factor = random.choice(FACTORS)
    if not dimension.integer:
        return min(max(float(value) * factor, dimension.low), dimension.high)
    low, step = int(dimension.low), dimension.step
    by = round((value * factor - value) / step) or (1 if factor > 1 else -1)
    return min(max(int(value) + by * step, low), int(dimension.high))


def show(dimension: Dimension) -> str:
    """In a few words."""
    when = "; ".join(f"{key} is {' or '.join(map(str, wanted))}" for key, wanted in conditions(dimension).items())
    condition = f", where {when}" if when else ""
    if not isinstance(dimension, RangeSpec):
        return f"{', '.join(map(str, listed(dimension)))}{condition}"
    kind = "whole numbers from " if dimension.integer else ""
    by = ", in the logarithm" if dimension.log else f" by {dimension.step}" if dimension.step > 1 else ""
    return f"{kind}{dimension.low:g} to {dimension.high:g}{by}{condition}"


def _draw(trial: Trial, key: str, dimension: Dimension) -> Any:
    # Ray notes what each of these three methods returns, so no other will do.
    if not isinstance(dimension, RangeSpec):
        return trial.suggest_categorical(key, listed(dimension))
    if dimension.integer:
        return trial.suggest_int(key, int(dimension.low), int(dimension.high), step=dimension.step, log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)


def _first_held(space: Space, key: str) -> Values:
    values: Values = {}
    for other, wanted in conditions(space[key]).items():
        if other in space:
            values |= _first_held(space, other)
        values[other] = wanted[0]
    return values


def _value_at(tree: Any, key: str) -> Any:
    """The value of a dotted key; None where there is no such section."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
