"""LineFiles: JSON lines below <folder>/<day>/, in files that each appear whole and are never touched again."""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from cluster.errors import StorageError
from cluster.storage import Storage


def now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


class LineFiles:
    """Those that one writer adds; named by its moment, itself and a number, so that no two ever meet."""

    def __init__(self, storage: Storage, folder: str, clock: Callable[[], datetime] = now) -> None:
        self._storage, self._folder, self._clock = storage, folder, clock
        self._writer, self._num_files = token_hex(4), 0

    def write(self, rows: Iterable[Any]) -> None:
        """Write one file, durable on return.

        Raises:
            StorageError: it cannot be written.
        """
        self._num_files += 1
        name = f"{self._clock():%Y-%m-%d/%H%M%S-%f}-{self._writer}-{self._num_files}.jsonl"
        content = "".join(json.dumps(row) + "\n" for row in rows)
        self._storage.write(f"{self._folder}/{name}", content.encode("ascii"))


def lines_in(storage: Storage, folder: str, read: Callable[[Any], Any], since: str = "") -> Iterator[Any]:
    """What `read` makes of each line below a folder, in the order of the files' names; nothing where there is none.

    Args:
        since: the first day (2026-01-31) of which lines are wanted.

    Raises:
        StorageError: `read` refuses a line.
    """
    if not storage.exists(folder):
        return
    for info in storage.files(folder):
        if str(info.path).split("/")[-2] < since:
            continue
        with storage.open(str(info.path)) as file:
            for line in file.read().splitlines():
                try:
                    yield read(json.loads(line))
                except (TypeError, ValueError, KeyError) as error:
                    raise StorageError(f"file '{info.path}' is damaged: {error}; mend or remove it") from None
