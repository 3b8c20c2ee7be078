"""A search over a space: what it is told of, what its trials train, on which workers, and where that lies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.errors import SpecError
from cluster.layout import Layout
from cluster.spec import with_values
from cluster.storage import Storage
from jobs.parallel.checkpoint import Checkpoints
from jobs.search.book import Book
from jobs.search.ranking import Outlook, Unfit
from jobs.search.space import Values
from jobs.search.study import NUMBER
from jobs.search.trial import Trial
from jobs.spec import RingSpec
from jobs.worker_group import Workers

NOT_TRIED, BYTES, STEP_S, RATES = "not tried", "predicted_bytes", "predicted_step_s", "rates"
"""Beside the values, what a trial's config has: why it is left out, and its forecast."""
KEPT_CHECKPOINTS = 2
"""At least, of a trial: where it is killed before the newest is told of, it goes on from the one before."""
Foresee = Callable[[RingSpec, Layout], Outlook | Unfit]
"""The forecast of a spec on a layout."""


@dataclass(frozen=True)
class Search:
    """A search over a space, and where it is written down."""

    spec: RingSpec
    storage: Storage
    prepared: str
    folder: str
    """For the book and for checkpoints."""
    workers_of: Callable[[int], Workers]
    """On which the trial of a number trains; a function that can be pickled by name, as the next one."""
    foresee: Foresee

    @property
    def book(self) -> Book[Trial]:
        """Of its trials."""
        return book_of(self.storage, self.folder)

    def trials(self) -> list[Trial]:
        """Those that are known, in the order of their numbers."""
        return [*self.book.read().values()]

    def checkpoints(self, trial: Trial) -> Checkpoints:
        """Of a trial."""
        return checkpoints_of(self.storage, self.folder, trial)


def checkpoints_of(storage: Storage, folder: str, trial: Trial) -> Checkpoints:
    """The checkpoints of a trial in the folder of a search; a member that takes over another's weights has new ones."""
    since = f"-{trial.took_over}" if trial.took_over else ""
    return Checkpoints(storage, f"{folder}/checkpoints/{trial.number:06d}{since}")


def book_of(storage: Storage, folder: str) -> Book[Trial]:
    """The book of the search in a folder."""
    return Book(storage, f"{folder}/trials", Trial)


def config_of(search: Search, number: int, values: Values) -> dict[str, Any]:
    """What Ray Tune is told of a trial: its number and values, what is foreseen of it, and why it cannot fit, if so."""
    return {NUMBER: number, **_outlook(search, number, values), **values}


def _outlook(search: Search, number: int, values: Values) -> dict[str, Any]:
    try:
        spec = trial_spec(search.spec, values, search.workers_of(number).layout)
    except SpecError:
        return {}  # values that do not go together: the trial itself says so
    forecast = search.foresee(spec, spec.layout)
    if isinstance(forecast, Unfit):
        return {NOT_TRIED: forecast.reason}
    return {BYTES: forecast.memory_bytes, STEP_S: forecast.step_s, RATES: forecast.rates}


def trial_spec(spec: RingSpec, values: Values, layout: Layout) -> RingSpec:
    """What a trial trains: the values of its point, on the layout but for a precision among the values.

    A trial keeps checkpoints of ends of epochs alone: those in between would push out the ones that it goes on from.
    A member of a population has the schedule of the run that goes on with it, is stopped by others alone, and keeps
    the checkpoint that its generation begins with, whatever comes in between.

    Raises:
        SpecError: they do not go together.
    """
    train, tune = spec.train, spec.tune
    if tune.is_population:
        how = {
            "train.early_stopping.patience": train.num_epochs,
            "train.checkpoint_every_steps": None,
            "train.keep_checkpoints": tune.perturb_every + 1,
        }
    else:
        how = {
            "train.num_epochs": tune.num_epochs,
            "train.checkpoint_every_steps": None,
            "train.keep_checkpoints": max(train.keep_checkpoints, KEPT_CHECKPOINTS),
        }
    return with_values(spec.model_copy(update={"layout": layout}), {**values, **how})


def values_in(config: dict[str, Any]) -> Values:
    """The values in a trial's config."""
    return {key: value for key, value in config.items() if key not in (NUMBER, NOT_TRIED, BYTES, STEP_S, RATES)}


def foreseen(config: dict[str, Any]) -> dict[str, Any]:
    """The forecast in a trial's config, as a `Trial` has it."""
    return {BYTES: config.get(BYTES), STEP_S: config.get(STEP_S), RATES: config.get(RATES, "")}
