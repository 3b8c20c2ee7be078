"""What it takes to reach a target over a space of hyperparameters: the search of tune, and Optuna alone.

    OMP_NUM_THREADS=1 python -m benchmarks.quality_search FOLDER [--seeds 5] [--random 24] [--workloads vision]

The target is what one in eight of trials that are drawn at random, and all trained to their end, came to: `--random` of
them, of another seed. Then both ways search until they have reached it, one trial at a time on one process, in turns,
seed by seed: tune's second phase as it is, on Ray Tune, and a loop as Optuna's documentation has it (its TPE and its
median pruner, as they are unless told otherwise). Both call the same `fit`. Writes the .md beside it. Needs the extra
`demo`.
"""

import argparse
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import optuna
from optuna.study import StudyDirection

from cluster.layout import Layout
from cluster.lifecycle import connected
from cluster.storage import Storage
from jobs import examples, movielens, prepare
from jobs.fit import EpochReport, fit
from jobs.lineage import prepared_folder
from jobs.quality_trials import quality_trials
from jobs.search.ranking import Outlook
from jobs.search.space import Values, in_order, own_values, sample
from jobs.spec import RingSpec, load_ring
from jobs.trial_run import Search, trial_spec
from jobs.worker_group import Workers, workers_of

SPECS = Path(__file__).parents[1] / "jobs/specs"
SPACES = {
    "recommender": {
        "workload.embedding_dim": [16, 32, 48, 64],
        "workload.dropout": {"low": 0.0, "high": 0.8},
        "train.batch_size": [512, 1024, 2048],
        "train.optimizer.name": ["adamw", "adam"],
        "train.optimizer.learning_rate": {"low": 5e-4, "high": 5e-2, "log": True},
        "train.optimizer.weight_decay": {"low": 1e-6, "high": 1e-1, "log": True},
        "train.schedule": ["constant", "cosine"],
    },
    "vision": {
        "train.batch_size": [32, 64, 128, 256],
        "train.optimizer.name": ["adamw", "rmsprop", "sgd"],
        "train.optimizer.momentum": {"low": 0.5, "high": 0.99, "when": {"train.optimizer.name": ["sgd"]}},
        "train.optimizer.learning_rate": {"low": 1e-4, "high": 0.3, "log": True},
        "train.optimizer.weight_decay": {"low": 1e-6, "high": 1.0, "log": True},
        "train.schedule": ["constant", "cosine"],
        "workload.label_smoothing": {"low": 0.0, "high": 0.3},
    },
}
NUM_EPOCHS = {"recommender": 6, "vision": 9}
SMALLER = {"recommender": ("workload.num_negatives=256",), "vision": ()}
"""Than the shipped specs, for time."""
AT_ONCE = 8
"""Trials of tune between two looks at whether the target is reached."""
RANDOM_SEED = 1_000
SHARE = 8
"""One in so many random trials reaches the target."""
LIMIT = 2.0
"""So many times the epochs of the random trials a search may take."""
Curve = Sequence[float]
"""The watched metric of each epoch."""


@dataclass(frozen=True)
class Task:
    """What is searched for."""

    spec: RingSpec
    storage: Storage
    prepared: str

    @property
    def metric(self) -> str:
        return self.spec.train.early_stopping.metric

    @property
    def mode(self) -> str:
        return self.spec.train.early_stopping.mode

    def best(self, values: Curve) -> float:
        return max(values) if self.mode == "max" else min(values)

    def is_reached(self, value: float, target: float) -> bool:
        return value >= target if self.mode == "max" else value <= target

    def study(self, seed: int) -> optuna.Study:
        """Optuna as it is."""
        direction = StudyDirection.MAXIMIZE if self.mode == "max" else StudyDirection.MINIMIZE
        sampler = optuna.samplers.TPESampler(seed=seed)
        return optuna.create_study(direction=direction, sampler=sampler, pruner=optuna.pruners.MedianPruner())

    def drawn(self, trial: optuna.Trial) -> Values:
        return sample(trial, in_order(self.spec.tune.space), own_values(self.spec))

    def train(self, values: Values, seed: int, see: Callable[[float], bool]) -> Curve:
        """The curve of a trial, up to the epoch that `see` says is enough, or to its end."""
        curve: list[float] = []

        def report(epoch: EpochReport) -> None:
            if math.isfinite(epoch.loss):
                curve.append(epoch.metrics[self.metric])
                if see(curve[-1]):
                    raise _EnoughError

        spec = trial_spec(self.spec.model_copy(update={"seed": seed}), values, Layout())
        try:
            fit(spec, self.storage, self.prepared, None, report)
        except _EnoughError:
            return curve
        return curve


class _EnoughError(Exception):
    """Ends a trial."""


@dataclass(frozen=True)
class Taken:
    """By a search, until it reached the target, or its limit."""

    is_reached: bool
    num_trials: int
    num_epochs: int
    seconds: float


def task_of(kind: str, storage: Storage) -> Task:
    epochs = NUM_EPOCHS[kind]
    spec = load_ring(
        SPECS / f"{kind}.yaml",
        [
            f"storage={storage.uri}",
            "layout={replicate: 1}",
            *SMALLER[kind],
            f"train.num_epochs={epochs}",
            f"train.early_stopping.patience={epochs}",
            f"tune={{num_trials: 1, num_epochs: {epochs}, max_concurrent: 1, space: {SPACES[kind]}}}",
        ],
    )
    prepare.run(spec, storage)
    return Task(spec, storage, prepared_folder(spec, storage))


def target_of(task: Task, num_trials: int) -> tuple[float, int]:
    """What the best eighth of random trials came to, and the epochs of all."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=RANDOM_SEED))
    curves = [task.train(task.drawn(study.ask()), RANDOM_SEED, lambda value: False) for _ in range(num_trials)]
    ranked = sorted((task.best(curve) for curve in curves if curve), reverse=task.mode == "max")
    return ranked[num_trials // SHARE - 1], sum(len(curve) for curve in curves)


def by_optuna(task: Task, seed: int, target: float, limit: int) -> Taken:
    """In a loop, one trial after the other."""
    study, began, num_epochs, num_trials = task.study(seed), time.monotonic(), 0, 0
    while num_epochs < limit:
        trial, num_trials = study.ask(), num_trials + 1
        seen: list[float] = []

        def see(value: float, trial: optuna.Trial = trial, seen: list[float] = seen) -> bool:
            seen.append(value)
            trial.report(value, len(seen))
            return task.is_reached(value, target) or trial.should_prune()

        curve = task.train(task.drawn(trial), seed, see)
        num_epochs += len(curve)
        if curve and task.is_reached(curve[-1], target):
            return Taken(True, num_trials, num_epochs, time.monotonic() - began)
        is_whole = len(curve) == task.spec.train.num_epochs
        study.tell(trial, curve[-1] if is_whole else None, None if is_whole else optuna.trial.TrialState.PRUNED)
    return Taken(False, num_trials, num_epochs, time.monotonic() - began)


def by_tune(task: Task, seed: int, target: float, limit: int) -> Taken:
    """By the second phase of tune, a few trials at a time: it goes on where it was."""
    num_trials = 0
    while True:
        num_trials += AT_ONCE
        tune = task.spec.tune.model_copy(update={"num_trials": num_trials})
        spec = task.spec.model_copy(update={"seed": seed, "tune": tune})
        folder = f"plans/{spec.name}/{seed}.search"
        workers = partial(_one, workers_of(spec, Layout(), 0))
        trials = quality_trials(Search(spec, task.storage, task.prepared, folder, workers, _unforeseen))
        num_epochs, seconds = 0, 0.0
        for place, trial in enumerate(trials, 1):
            seconds += trial.device_s
            for point in trial.curve:
                num_epochs += 1
                if task.is_reached(point[task.metric], target):
                    return Taken(True, place, num_epochs, seconds)
            if num_epochs >= limit:
                return Taken(False, place, num_epochs, seconds)


def _one(workers: Workers, number: int) -> Workers:
    return workers


def _unforeseen(spec: RingSpec, layout: Layout) -> Outlook:
    return Outlook(layout, None, None)


WAYS = {"tune": by_tune, "Optuna": by_optuna}


def lines_of(kind: str, task: Task, target: float, random_epochs: int, found: dict[str, list[Taken]]) -> Iterator[str]:
    """The table of a workload."""
    yield f"## {kind}"
    yield ""
    yield (
        f"Target: {task.metric} {target:.4f}, which one in {SHARE} of the random trials reached; these took "
        f"{random_epochs} epochs. "
        f"A trial is {NUM_EPOCHS[kind]} epochs long."
    )
    yield ""
    yield "| seed | " + " | ".join(f"{way}: epochs (trials, seconds)" for way in found) + " | epochs: tune / Optuna |"
    yield "|---:|" + "---:|" * len(found) + "---:|"
    for seed in range(len(found["tune"])):
        cells = [_cell(taken[seed]) for taken in found.values()]
        ratio = found["tune"][seed].num_epochs / found["Optuna"][seed].num_epochs
        yield f"| {seed} | " + " | ".join(cells) + f" | {ratio:.2f} |"
    for name, of in (("median", median), ("sum", sum)):
        epochs = [of([taken.num_epochs for taken in each]) for each in found.values()]
        seconds = [of([taken.seconds for taken in each]) for each in found.values()]
        cells = [f"{num:g} ({of_s:.0f} s)" for num, of_s in zip(epochs, seconds, strict=True)]
        yield f"| {name} | " + " | ".join(cells) + f" | {epochs[0] / epochs[1]:.2f} |"
    yield ""


def _cell(taken: Taken) -> str:
    mark = "" if taken.is_reached else "not reached: "
    return f"{mark}{taken.num_epochs} ({taken.num_trials}, {taken.seconds:.0f})"


def main() -> None:
    """Search in both ways, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--random", type=int, default=24)
    parser.add_argument("--workloads", default=",".join(SPACES))
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=UserWarning)
    storage = Storage(given.folder)
    movielens.main([given.folder])
    examples.main(["vision", given.folder])
    lines = [
        "# What it takes to reach a target",
        "",
        f"`python -m benchmarks.quality_search FOLDER --seeds {given.seeds} --random {given.random}`: one process at a "
        f"time on {platform.machine()}, the ways in turns, seed by seed. An epoch is one over all training rows. A "
        f"search ends without the target at {LIMIT:g} times the epochs of the random trials. The seconds of tune are "
        "those for which trials held their device. The specs are the shipped ones, the recommender's with fewer "
        "negatives, 256.",
        "",
    ]
    with connected():
        for kind in given.workloads.split(","):
            task = task_of(kind, storage)
            target, random_epochs = target_of(task, given.random)
            print(f"{kind}: {task.metric} {target:.4f} is the target, of {random_epochs} random epochs", flush=True)
            found: dict[str, list[Taken]] = {way: [] for way in WAYS}
            for seed in range(given.seeds):
                for way, search in [*WAYS.items()][:: 1 if seed % 2 else -1]:
                    found[way].append(search(task, seed, target, int(LIMIT * random_epochs)))
                    print(f"{kind} seed {seed} {way}: {_cell(found[way][-1])}", flush=True)
            lines += lines_of(kind, task, target, random_epochs, found)
    page = "\n".join(lines)
    Path(__file__).with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
