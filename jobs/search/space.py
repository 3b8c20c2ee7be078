"""The search space of a spec, sampled the way Optuna calls define-by-run."""

from collections.abc import Callable, Mapping
from typing import Any

from optuna import Trial

from jobs.spec import Choices, RangeSpec


def sampler(space: Mapping[str, Choices | RangeSpec]) -> Callable[[Trial], dict[str, Any]]:
    """A function that draws one point of the space from an Optuna trial, each value under its dotted key.

    Optuna's own searcher on Ray hands nested Ray domains on unsampled; a function of the trial has no such trap.
    """

    def sample(trial: Trial) -> dict[str, Any]:
        for key, values in space.items():
            if isinstance(values, RangeSpec):
                trial.suggest_float(key, values.low, values.high, log=values.log)
            else:
                trial.suggest_categorical(key, values)
        return {}

    return sample
