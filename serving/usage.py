"""Usage: what each key was used for, one JSON line a key and flush, below usage/<name>/<day>/.

A replica adds up and writes every ten seconds and when it stops, so a replica that is killed loses ten seconds at most:
counts are never above what was served.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from cluster.storage import Storage
from serving.line_files import LineFiles, lines_in, now
from serving.repeating import repeat

FLUSH_S = 10.0


@dataclass
class Use:
    """Of one key, added up."""

    tenant: str
    """Empty where nobody's key was shown."""
    key_id: str
    num_requests: int = 0
    """That were admitted, whatever came of them."""
    num_refused: int = 0
    """By access or by limits."""
    num_failed: int = 0
    """Admitted, and failed by the service's fault."""
    bytes_in: int = 0
    """Of bodies."""
    bytes_out: int = 0
    seconds: float = 0.0
    """From the request's beginning to its answer's end, added up."""

    def add(self, other: "Use") -> None:
        """Add what another one counts."""
        for name in ("num_requests", "num_refused", "num_failed", "bytes_in", "bytes_out", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class UsageLog:
    """Of one replica."""

    def __init__(self, storage: Storage, name: str, clock: Callable[[], datetime] = now) -> None:
        self._files = LineFiles(storage, f"usage/{name}", clock)
        self._uses: dict[str, Use] = {}
        self._lock = threading.Lock()

    def add(self, use: Use) -> None:
        """Count one request; in microseconds."""
        with self._lock:
            found = self._uses.get(use.key_id)
            if found is None:
                self._uses[use.key_id] = use
            else:
                found.add(use)

    def flush(self) -> None:
        """Write what was counted since the last time.

        Raises:
            StorageError: it cannot be written; it is kept for the next time.
        """
        with self._lock:
            uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            self._files.write(map(asdict, uses.values()))
        except Exception:
            for use in uses.values():
                self.add(use)
            raise

    def follow(self) -> None:
        """Flush from now on, in a thread that lives as long as the process."""
        repeat(self.flush, FLUSH_S, "writing usage")


def uses_on(storage: Storage, name: str, day: str) -> Iterator[Use]:
    """What was written of a day (2026-01-31, UTC): of each key several, from each flush one.

    Raises:
        StorageError: a line is no use.
    """
    return lines_in(storage, f"usage/{name}/{day}", lambda line: Use(**line))


def used_on(storage: Storage, name: str, day: str) -> Mapping[str, int]:
    """The requests of each tenant on a day."""
    found = defaultdict[str, int](int)
    for use in uses_on(storage, name, day):
        found[use.tenant] += use.num_requests
    return found


def told(storage: Storage, name: str, day: str) -> list[str]:
    """For people: a line a key."""
    keys: dict[str, Use] = {}
    for use in uses_on(storage, name, day):
        keys.setdefault(use.key_id, Use(use.tenant, use.key_id)).add(use)
    lines = [
        f"{'tenant':<20} {'key':<12} {'requests':>10} {'refused':>8} {'failed':>7} {'MB in':>8} {'MB out':>8} {'s':>9}"
    ]
    for use in sorted(keys.values(), key=lambda use: (use.tenant, use.key_id)):
        lines.append(
            f"{use.tenant or '(no key)':<20} {use.key_id:<12} {use.num_requests:>10,} {use.num_refused:>8,} "
            f"{use.num_failed:>7,} {use.bytes_in / 1e6:>8.2f} {use.bytes_out / 1e6:>8.2f} {use.seconds:>9.1f}"
        )
    return lines
