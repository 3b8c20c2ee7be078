import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from jobs.features.step import Step
from jobs.features.steps import StepSpec, step_of

CLASSES: tuple[type[Step], ...] = get_args(get_args(StepSpec)[0])


def test_every_step_has_a_kind_of_its_own() -> None:
    kinds = [get_args(kind.model_fields["kind"].annotation) for kind in CLASSES]
    assert len({kind for (kind,) in kinds}) == len(CLASSES) > 10


def kinds_of(parent: type[Step]) -> set[type[Step]]:
    """Every class under this one that says its kind: what only shares code among steps says none."""
    below = set[type[Step]]()
    for child in parent.__subclasses__():
        below |= ({child} if "kind" in child.__annotations__ else set()) | kinds_of(child)
    return below


def test_every_class_of_a_step_is_in_the_list() -> None:
    of_ours = {kind for kind in kinds_of(Step) if kind.__module__.startswith("jobs.features.")}
    assert set(CLASSES) == of_ours


@pytest.mark.parametrize("settings", [{"kind": "one_hot", "column": "a", "output": "b", "min_count": 2}])
def test_settings_make_the_step_that_gave_them(settings: dict[str, object]) -> None:
    step = step_of(settings)
    assert step_of(step.settings()) == step
    assert step.settings().items() >= settings.items()


def test_to_know_the_steps_takes_none_of_the_libraries_that_only_fitting_needs() -> None:
    """Each worker of a cluster imports them, and scikit-learn alone takes a second."""
    code = "import sys, jobs.features.steps; print([name for name in ('sklearn', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
