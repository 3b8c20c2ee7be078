"""A gang of workers that stays for one trial after the other, and stands still at each epoch's end until it is told on.

Ray Tune asks for one epoch after the other, so a trial that it stops leaves its workers ready for the next trial. A new
gang would cost processes, imports and a process group.
"""

import asyncio
import gc
import queue
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, Literal, Protocol

import ray
import torch

from cluster.reservation import TrialTrainer
from jobs.parallel.collectives import done_by_first, from_first, rank
from jobs.parallel.mesh import end_groups
from jobs.search.trial import Point
from jobs.spec import TrainSpec
from jobs.worker_group import Workers, device_here, run_on_workers

LOOK_EVERY_S = 10.0
"""So often, at least, the first worker tells the others that there is nothing yet: collectives time out."""
POLL_S = 0.5
"""So often a trial looks whether its workers are still there."""
LEAVE_S = 60.0
"""How long workers may take to end; Ray Tune, which ends what takes longer than it likes, may allow less."""


@dataclass(frozen=True)
class Begin:
    """Train this, and tell of each epoch."""

    number: int
    """Of trials, by which what is told of one is told from what is told of another."""
    settings: dict[str, Any]


@dataclass(frozen=True)
class Told:
    """What an epoch came to; None where training has come to its end."""

    number: int
    point: Point | None


Order = Begin | Literal["go on", "leave", "end"]
"""What workers are told: `leave` the trial at the end of an epoch, or `end`, between trials."""
Train = Callable[[dict[str, Any], Callable[[Point], bool], torch.device], None]
"""Trains what the settings say on this worker, and calls a function after every epoch, which says whether to go on."""


class Desk(Protocol):
    """Between a trial and the first of its workers."""

    def give(self, order: Order) -> None:
        """Leave an order for the workers."""

    def order(self) -> Order | None:
        """The next order; None where there is none for some seconds."""

    def tell(self, told: Told) -> None:
        """Leave an epoch for the trial."""

    def hear(self) -> Told | None:
        """The next that was told; None where there is nothing yet."""


class LocalDesk:
    """Of a worker that is a thread of its trial's process."""

    def __init__(self) -> None:
        self._orders: queue.Queue[Order] = queue.Queue()
        self._told: queue.Queue[Told] = queue.Queue()

    def give(self, order: Order) -> None:
        """See `Desk`, as the next three."""
        self._orders.put(order)

    def order(self) -> Order | None:
        """See `Desk`."""
        return self._orders.get()

    def tell(self, told: Told) -> None:
        """See `Desk`."""
        self._told.put(told)

    def hear(self) -> Told | None:
        """See `Desk`."""
        try:
            return self._told.get(timeout=POLL_S)
        except queue.Empty:
            return None


class _Drawers:
    """An actor that keeps what is given until it is taken."""

    def __init__(self) -> None:
        self._of: dict[str, asyncio.Queue[Any]] = {"orders": asyncio.Queue(), "told": asyncio.Queue()}

    async def put(self, drawer: str, content: Any) -> None:
        await self._of[drawer].put(content)

    async def take(self, drawer: str, timeout_s: float) -> Any:
        try:
            return await asyncio.wait_for(self._of[drawer].get(), timeout_s)
        except TimeoutError:
            return None


class RemoteDesk:
    """Of workers that are processes of their own. It can be pickled."""

    def __init__(self, look_every_s: float) -> None:
        self._look_every_s = look_every_s
        self._drawers: Any = ray.remote(_Drawers).options(num_cpus=0).remote()

    def give(self, order: Order) -> None:
        """See `Desk`, as the next three."""
        ray.get(self._drawers.put.remote("orders", order))

    def order(self) -> Order | None:
        """See `Desk`."""
        found: Order | None = ray.get(self._drawers.take.remote("orders", self._look_every_s))
        return found

    def tell(self, told: Told) -> None:
        """See `Desk`."""
        ray.get(self._drawers.put.remote("told", told))

    def hear(self) -> Told | None:
        """See `Desk`."""
        found: Told | None = ray.get(self._drawers.take.remote("told", POLL_S))
        return found


class Gang:
    """Workers as their trial sees them. Made and used in the process of a trial of Ray Tune, in its reservation."""

    def __init__(self, workers: Workers, train: Train, spec: TrainSpec, scratch: str) -> None:
        """Start them.

        Args:
            train: a function that can be pickled by name.
            spec: how long a collective may take.
            scratch: a local folder for what Ray Train writes down.
        """
        is_alone = workers.layout.num_workers == 1
        look_every_s = min(LOOK_EVERY_S, spec.collective_timeout_s / 3)
        self._desk: Desk = LocalDesk() if is_alone else RemoteDesk(look_every_s)
        self._failure: BaseException | None = None
        self._number = 0
        self._is_at_one = False
        """Whether they are at a trial, standing at the end of an epoch where one was told of."""
        self._has_told = False
        settings = {"desk": self._desk, "train": train, "device": workers.device}
        work = _alone if is_alone else _together(workers, spec, scratch)
        self._thread = Thread(target=self._kept, args=(work, settings), daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether they can be asked for anything."""
        return self._thread.is_alive()

    def begin(self, settings: dict[str, Any]) -> None:
        """Let them train something new; what they were at is left as it is."""
        self._leave()
        self._number += 1
        self._is_at_one = True
        self._desk.give(Begin(self._number, settings))

    def epoch(self) -> Point | None:
        """Let them train an epoch, and wait for what it comes to; None where training came to its end.

        Raises:
            Exception: what a worker raised, or died of.
        """
        if self._has_told:
            self._desk.give("go on")
        told = self._hear()
        self._has_told = self._is_at_one = told.point is not None
        return told.point

    def end(self) -> None:
        """Let them end, and wait for it."""
        if self.is_alive:
            self._leave()
            self._desk.give("end")
            self._thread.join(LEAVE_S)

    def _leave(self) -> None:
        if self._is_at_one:
            self._desk.give("leave")
        self._has_told = self._is_at_one = False

    def _hear(self) -> Told:
        while True:
            told = self._desk.hear()
            if told and told.number == self._number:
                return told
            if not told and not self.is_alive:
                raise self._failure or RuntimeError("the workers ended amid a trial")

    def _kept(self, work: Callable[[dict[str, Any]], None], settings: dict[str, Any]) -> None:
        try:
            work(settings)
        except BaseException as failure:  # it is raised by `epoch`, in the thread that waits for it
            self._failure = failure


def _alone(settings: dict[str, Any]) -> None:
    _work(settings, torch.device(settings["device"]))


def _together(workers: Workers, spec: TrainSpec, scratch: str) -> Callable[[dict[str, Any]], None]:
    def work(settings: dict[str, Any]) -> None:
        run_on_workers(
            workers,
            TrialTrainer,
            run_worker,
            settings,
            name="trials",
            scratch=scratch,
            train=spec.model_copy(update={"max_failures": 0}),
        )

    return work


def run_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls on every worker."""
    _work(settings, device_here(settings["device"]))


def _work(settings: dict[str, Any], device: torch.device) -> None:
    """Train one trial after the other, until told to end."""
    desk: Desk = settings["desk"]
    train: Train = settings["train"]
    while (order := _next_order(desk)) != "end":
        if isinstance(order, Begin):  # else they are to leave what has come to its end meanwhile
            teller = _Teller(desk, order.number)
            train(order.settings, teller.tell, device)
            if not teller.has_left:
                done_by_first(partial(desk.tell, Told(order.number, None)))
            _tidy()


class _Teller:
    """Tells of the epochs of one trial."""

    def __init__(self, desk: Desk, number: int) -> None:
        self._desk, self._number = desk, number
        self.has_left = False
        """Whether it was told to leave."""

    def tell(self, point: Point) -> bool:
        """Tell of an epoch, and stand still until told what to do; whether to go on."""
        done_by_first(partial(self._desk.tell, Told(self._number, point)))
        self.has_left = _next_order(self._desk) != "go on"
        return not self.has_left


def _tidy() -> None:
    """Give back what a trial has left: memory, and the process groups of its mesh."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    end_groups()


def _next_order(desk: Desk) -> Order:
    """What the first worker finds at the desk, on every worker."""
    while True:
        order = from_first(desk.order() if rank() == 0 else None)
        if order is not None:
            return order
