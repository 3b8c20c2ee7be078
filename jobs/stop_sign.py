"""Stopping training midway at a step that all workers agree on."""

import time
from collections.abc import Callable

from jobs.parallel.collectives import from_first

LOOK_EVERY_S = 1.0
"""About so often the first worker looks: a broadcast at every step would be felt where steps take milliseconds."""


class StopSign:
    """Tells all workers at the same step that they are to stop. Only the first one needs to know; it tells the others.

    With what it found it also tells after how many steps they meet again, by how long its steps take.
    """

    def __init__(self, is_up: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """`is_up` is asked on the first worker alone."""
        self._is_up, self._clock = is_up, clock
        self._met_s = clock()
        self._between = 1
        self._left = 1

    def seen(self) -> bool:
        """Whether to stop now. Every worker calls it after every step."""
        self._left -= 1
        if self._left:
            return False
        now = self._clock()
        step_s = (now - self._met_s) / self._between
        self._met_s = now
        # No more than twice as many: a step that was short by chance must not put off the next look for long.
        steps = max(1, min(2 * self._between, int(LOOK_EVERY_S / max(step_s, 1e-6))))
        is_up, self._between = from_first((self._is_up(), steps))
        self._left = self._between
        return is_up
