"""The book of a search that is under way: a file a trial, so that a search whose driver was killed goes on.

Ray Tune's own snapshots are up to ten seconds old, and know nothing of what its scheduler has seen.
"""

import json
from dataclasses import dataclass
from typing import Generic

from cluster.storage import Storage
from jobs.search.trial import T, as_json, from_json


@dataclass(frozen=True)
class Book(Generic[T]):
    """Trials of one kind, each under a name."""

    storage: Storage
    folder: str
    kind: type[T]

    def note(self, name: str, trial: T) -> None:
        """Write down how a trial stands, durably, in place of what was noted of it."""
        self.storage.write(f"{self.folder}/{name}.json", json.dumps(as_json(trial)).encode())

    def remove(self, name: str) -> None:
        """Forget what was noted of a trial."""
        self.storage.remove(f"{self.folder}/{name}.json")

    def read(self) -> dict[str, T]:
        """All trials by name, in the order of their names."""
        paths = [str(info.path) for info in self.storage.files(self.folder)] if self.storage.exists(self.folder) else []
        names = [path.rpartition("/")[2].removesuffix(".json") for path in paths]
        return {
            name: from_json(self.kind, json.loads(self.storage.read(f"{self.folder}/{name}.json"))) for name in names
        }
