"""The search space of a spec, sampled the way Optuna calls define-by-run."""

from collections.abc import Mapping
from typing import Any

from optuna import Trial

from jobs.spec import Choices, RangeSpec


def sample(trial: Trial, space: Mapping[str, Choices | RangeSpec]) -> dict[str, Any]:
    """Draw one point of the space, each value under its dotted key, for OptunaSearch's define-by-run `space`.

    Ray's OptunaSearch hands nested Ray domains on unsampled; a function of the trial has no such trap.
    """
    for key, values in space.items():
        if isinstance(values, RangeSpec):
            trial.suggest_float(key, values.low, values.high, log=values.log)
        else:
            trial.suggest_categorical(key, values)
    return {}
