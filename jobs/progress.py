"""What a long piece of work says while it goes on: how much is done, and how fast."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

EVERY_S = 5.0


@dataclass
class Progress:
    """Of one pass over rows in parts; the first line comes after EVERY_S, so that quick work says nothing."""

    what: str
    num_parts: int
    clock: Callable[[], float] = time.monotonic
    say: Callable[[str], None] = lambda line: print(line, flush=True)
    num_done: int = 0
    num_rows: int = 0
    num_bytes: int = 0
    _started: float = field(init=False)
    _said: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self._said = self.clock()

    def done(self, num_parts: int, num_rows: int, num_bytes: int) -> None:
        """Count parts that are done; `num_bytes` as they lie in memory."""
        self.num_done += num_parts
        self.num_rows += num_rows
        self.num_bytes += num_bytes
        now = self.clock()
        if now - self._said >= EVERY_S:
            self._said = now
            seconds = now - self._started
            self.say(
                f"{self.what}: {self.num_done:,} of {self.num_parts:,} parts, {self.num_rows:,} rows, "
                f"{self.num_rows / seconds:,.0f} rows/s, {self.num_bytes / 2**20 / seconds:,.1f} MiB/s"
            )
