"""The first phase of a search: a few steps of the layouts that the forecast finds best, each on a gang of its own size.

A trial of Ray Tune is a group of workers that measures several layouts, one after the other; groups of all sizes are
at work at once, as the devices allow. What is known is in the search's book, so a search that was killed goes on.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.tune
import torch
from ray.tune import Callback, PlacementGroupFactory, RunConfig, Tuner
from ray.tune.integration.ray_train import TuneReportCallback

from cluster.layout import Layout
from cluster.reservation import TrialTrainer, trial_resources
from cluster.spec import dump, parse
from cluster.storage import Storage
from jobs.failures import failure_of
from jobs.measured_steps import measure
from jobs.parallel.collectives import done_by_first
from jobs.search.book import Book
from jobs.search.candidates import gangs
from jobs.search.ranking import Outlook
from jobs.search.trial import LayoutTrial, is_open, layout_of, values_of, why_not_tried
from jobs.spec import RingSpec
from jobs.trial_watch import KillCount, error_of
from jobs.worker_group import Workers, device_here, run_on_workers

Learn = Callable[[Sequence[LayoutTrial]], None]
GANG = "gang"
"""Of a trial's config: the names of its layouts, in the order in which they are measured."""


def _nothing(trials: Sequence[LayoutTrial]) -> None:
    pass


@dataclass(frozen=True)
class LayoutSearch:
    """A search over layouts, and where it is written down."""

    spec: RingSpec
    storage: Storage
    prepared: str
    folder: str
    workers_of: Callable[[Layout], Workers]
    num_devices: int
    learn: Learn = _nothing
    """Called with all layouts as they stand, after each that was measured."""

    @property
    def book(self) -> Book[LayoutTrial]:
        """Of its layouts, by their place in the order of the forecast."""
        return Book(self.storage, f"{self.folder}/layouts", LayoutTrial)


def layout_trials(search: LayoutSearch, outlooks: Sequence[Outlook]) -> list[LayoutTrial]:
    """Measure every layout once, going on with those that are known, in the given order.

    What was measured of others, as by a search that was killed where there were more devices, is forgotten.

    Raises:
        KeyboardInterrupt: the search was interrupted; called again, it goes on.
    """
    noted = search.book.read()
    known = {_key(trial): trial for trial in noted.values()}
    for place, outlook in enumerate(outlooks):
        fresh = LayoutTrial(values_of(outlook.layout), outlook.memory_bytes, outlook.step_s, rates=outlook.rates)
        search.book.note(f"{place:04d}", known.get(_key(fresh), fresh))
    for name in [*noted][len(outlooks) :]:
        search.book.remove(name)
    while True:
        before = _left_out(search.book)
        waiting = {name: trial for name, trial in before.items() if is_open(trial, search.spec.train.max_failures)}
        if not waiting:
            return [*before.values()]
        _make(search, waiting)
        if was_interrupted(before, search.book.read()):
            raise KeyboardInterrupt


def was_interrupted(before: dict[str, LayoutTrial], now: dict[str, LayoutTrial]) -> bool:
    """Whether Ray Tune came back with a layout that was begun and did not end, or has begun none."""
    begun = [name for name in now if now[name].num_starts > before[name].num_starts]
    return now == before or any(now[name].outcome == "under way" for name in begun)


def _key(trial: LayoutTrial) -> tuple[tuple[str, Any], ...]:
    """What tells a layout from another."""
    return tuple(sorted(trial.layout.items()))


def _left_out(book: Book[LayoutTrial]) -> dict[str, LayoutTrial]:
    """The book, with those left out that would run out of memory as others have."""
    trials = book.read()
    for name, trial in trials.items():
        why = why_not_tried(trial.predicted_bytes, [*trials.values()]) if trial.outcome == "under way" else ""
        if why:
            trials[name] = replace(trial, outcome="not tried", said=why)
            book.note(name, trials[name])
    return trials


def _make(search: LayoutSearch, waiting: dict[str, LayoutTrial]) -> None:
    """Let Ray Tune measure the layouts that wait."""
    layouts = {name: layout_of(trial.layout) for name, trial in waiting.items()}
    names = {layout: name for name, layout in layouts.items()}
    outlooks = [Outlook(layouts[name], trial.predicted_bytes, None) for name, trial in waiting.items()]
    of_gangs = [[names[each.layout] for each in gang] for gang in gangs(outlooks, search.num_devices)]
    settings = {"spec": dump(search.spec), "storage": search.storage.uri, "prepared": search.prepared}
    trainable = ray.tune.with_parameters(
        run_gang, settings=settings, layouts=layouts, book=search.book, workers_of=search.workers_of
    )
    scratch = f"{search.folder}/tune"
    search.storage.remove(scratch)

    def resources(config: dict[str, Any]) -> PlacementGroupFactory:
        workers = search.workers_of(layouts[config[GANG][0]])
        return trial_resources(workers.layout, workers.demand)

    Tuner(
        ray.tune.with_resources(trainable, resources),
        param_space={GANG: ray.tune.grid_search(of_gangs)},
        run_config=RunConfig(
            name="layouts",
            storage_path=search.storage.path(scratch),
            storage_filesystem=search.storage.filesystem,
            callbacks=[LayoutWatch(search.book, search.learn)],
            verbose=0,
        ),
    ).fit()


class LayoutWatch(Callback):
    """What Ray Tune tells of each group is written down, and said in a line a layout."""

    def __init__(self, book: Book[LayoutTrial], learn: Learn) -> None:
        self._book, self._learn = book, learn
        self._trials = book.read()
        self._left: dict[str, list[str]] = {}
        self._since: dict[str, float] = {}
        self._kills = KillCount()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a group has its devices."""
        self._left[trial.trial_id] = list(trial.config[GANG])
        self._since[trial.trial_id] = time.monotonic()
        self._begin_next(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Called by Ray Tune when a layout is measured, or left out."""
        name = self._left[trial.trial_id].pop(0)
        held = self._held(trial, name)
        if result["why"]:
            self._end(name, replace(held, outcome="not tried", said=result["why"]), f"not tried: {result['why']}")
        else:
            steps, peaks = tuple(result["step_s"]), tuple(result["peak_bytes"])
            held = replace(held, outcome="finished", step_s=steps, peak_bytes=peaks)
            shown = f"{held.median_s * 1e3:.1f} ms a step, {max(peaks) / 2**20:.1f} MiB on the fullest worker"
            self._end(name, held, shown)
            self._learn([*self._trials.values()])
        self._begin_next(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a group fails: by the layout that it was at. The others are measured by another."""
        if not self._left.get(trial.trial_id):
            return
        name = self._left[trial.trial_id].pop(0)
        held = self._kills.judged(self._held(trial, name), failure_of(error_of(trial)))
        self._end(name, held, f"{held.outcome}: {held.said}")

    def _begin_next(self, trial: Any) -> None:
        for name in self._left[trial.trial_id][:1]:
            held = self._trials[name]
            self._note(name, replace(held, outcome="under way", said="", num_starts=held.num_starts + 1))

    def _held(self, trial: Any, name: str) -> LayoutTrial:
        held, now = self._trials[name], time.monotonic()
        taken_s = (now - self._since[trial.trial_id]) * layout_of(held.layout).num_workers
        self._since[trial.trial_id] = now
        return replace(held, device_s=held.device_s + taken_s)

    def _note(self, name: str, held: LayoutTrial) -> None:
        self._trials[name] = held
        self._book.note(name, held)

    def _end(self, name: str, held: LayoutTrial, shown: str) -> None:
        self._note(name, held)
        print(f"layout {layout_of(held.layout).line()}  {shown}", flush=True)


def run_gang(
    config: dict[str, Any],
    settings: dict[str, str],
    layouts: dict[str, Layout],
    book: Book[LayoutTrial],
    workers_of: Callable[[Layout], Workers],
) -> None:
    """What Ray Tune calls for a group of workers."""
    workers = workers_of(layouts[config[GANG][0]])
    given = {**settings, "layouts": {name: dump(layouts[name]) for name in config[GANG]}, "book": book}
    if workers.layout.num_workers == 1:
        _measure_all(given, ray.tune.report, torch.device(workers.device))
        return
    spec = parse(RingSpec, settings["spec"], "the driver's spec")
    run_on_workers(
        workers,
        TrialTrainer,
        run_gang_worker,
        {**given, "device": workers.device},
        name="layouts",
        scratch=str(Path.cwd()),  # of the trial's own: Tune starts it in a folder that goes with Ray's session
        train=spec.train.model_copy(update={"max_failures": 0}),
        callbacks=[TuneReportCallback()],
    )


def run_gang_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls on every worker of the group."""
    _measure_all(settings, ray.train.report, device_here(settings["device"]))


def _measure_all(settings: dict[str, Any], tell: Callable[[dict[str, Any]], None], device: torch.device) -> None:
    spec, storage = parse(RingSpec, settings["spec"], "the driver's spec"), Storage(settings["storage"])
    for name, layout in settings["layouts"].items():
        on_layout = spec.model_copy(update={"layout": parse(Layout, layout, "the driver's layout")})
        why = done_by_first(partial(_why_not, settings["book"], name))
        if why:
            tell({"why": why})
        else:
            measured = measure(on_layout, storage, settings["prepared"], spec.tune.num_steps, device)
            tell({"why": "", "step_s": list(measured.step_s), "peak_bytes": list(measured.peak_bytes)})


def _why_not(book: Book[LayoutTrial], name: str) -> str:
    """Why a layout is left out, by what other groups have found out meanwhile."""
    trials = book.read()
    return why_not_tried(trials[name].predicted_bytes, [*trials.values()])
