"""Versions of a model, and the aliases that say which one is in use.

    models/<name>/<version>/         a published folder, never changed
    models/<name>/aliases.json       {"champion": ["<version>", ...]}, newest first: the way back is kept

`python -m cluster.registry STORAGE NAME [list | promote VERSION | rollback]`
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from cluster.command import run
from cluster.errors import RegistryError, nearest
from cluster.storage import MANIFEST, Storage, sha256

FORMAT = 1
CHAMPION = "champion"


@dataclass(frozen=True)
class Registry:
    """The versions and aliases of one model in one storage."""

    storage: Storage
    name: str

    def publish(self, source: Path, manifest: Mapping[str, Any]) -> str:
        """Publish the local folder `source` as a new version and return its name."""
        now = datetime.now(UTC)
        version = f"{now:%Y%m%d-%H%M%S-%f}{token_hex(1)}"
        content = {"format": FORMAT, "workload": self.name, "created_at": now.isoformat(), **manifest}
        self.storage.publish(source, self._folder(version), content)
        return version

    def versions(self) -> list[str]:
        """Every published version, oldest first."""
        return self.storage.folders(f"models/{self.name}")

    def manifest(self, version: str) -> dict[str, Any]:
        """The manifest of a version.

        Raises:
            RegistryError: there is no such version.
        """
        self._require(version)
        return self.storage.manifest(self._folder(version))

    def aliases(self) -> dict[str, list[str]]:
        """Each alias with the versions it has stood for, the present one first."""
        path = f"models/{self.name}/aliases.json"
        if not self.storage.exists(path):
            return {}
        aliases: dict[str, list[str]] = json.loads(self.storage.read(path))
        return aliases

    def resolve(self, alias: str) -> str:
        """The version that an alias, or a version's own name, stands for.

        Raises:
            RegistryError: there is neither.
        """
        history = self.aliases().get(alias, [])
        if history:
            return history[0]
        self._require(alias)
        return alias

    @contextmanager
    def open(self, version: str) -> Iterator[Path]:
        """The version as a local folder whose every file was compared with its checksum.

        Raises:
            RegistryError: unknown, of a newer format, or a file differs from what was published.
        """
        manifest = self.manifest(version)
        if manifest["format"] != FORMAT:
            raise RegistryError(
                f"version {version} has format {manifest['format']}, this code reads {FORMAT}: update Rayline"
            )
        with self.storage.as_local(self._folder(version)) as folder:
            _verify(folder, version, manifest["files"])
            yield folder

    def promote(self, version: str, alias: str = CHAMPION) -> None:
        """Point `alias` at `version`, keeping what it pointed at before for `rollback`.

        Raises:
            RegistryError: there is no such version.
        """
        self._require(version)
        aliases = self.aliases()
        history = aliases.get(alias, [])
        if history[:1] != [version]:
            self._write({**aliases, alias: [version, *history]})

    def rollback(self, alias: str = CHAMPION) -> str:
        """Point `alias` back at what it pointed at before, and return that.

        Raises:
            RegistryError: there is nothing to go back to.
        """
        aliases = self.aliases()
        history = aliases.get(alias, [])
        if len(history) < 2:
            raise RegistryError(f"alias '{alias}' of '{self.name}' has no earlier version to roll back to")
        self._require(history[1])
        self._write({**aliases, alias: history[1:]})
        return history[1]

    def _folder(self, version: str) -> str:
        return f"models/{self.name}/{version}"

    def _require(self, version: str) -> None:
        known = "/" not in version and self.storage.is_published(self._folder(version))
        if not known:
            valid = [*self.aliases(), *self.versions()]
            raise RegistryError(f"'{version}' is no version or alias of '{self.name}'. {nearest(version, valid)}")

    def _write(self, aliases: Mapping[str, Sequence[str]]) -> None:
        self.storage.write(f"models/{self.name}/aliases.json", json.dumps(aliases, indent=1).encode())


def _verify(folder: Path, version: str, checksums: Mapping[str, str]) -> None:
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    changed = [name for name in checksums if name in present and sha256(folder / name) != checksums[name]]
    faults = (
        [f"{name} is missing" for name in sorted(set(checksums) - present)]
        + [f"{name} is not in the manifest" for name in sorted(present - set(checksums))]
        + [f"{name} differs from its checksum" for name in changed]
    )
    if faults:
        raise RegistryError(
            f"version {version} is not what was published: {'; '.join(faults)}. "
            "Serve another version (python -m cluster.registry STORAGE NAME rollback) or publish this one again."
        )


def main(arguments: Sequence[str]) -> int:
    """List, promote or roll back from the command line."""
    match arguments:
        case [uri, name] | [uri, name, "list"]:
            registry = Registry(Storage(uri), name)
            champion = registry.aliases().get(CHAMPION, [""])[0]
            for version in registry.versions():
                print(version, "champion" if version == champion else "")
        case [uri, name, "promote", version]:
            Registry(Storage(uri), name).promote(version)
            print(f"{name}: champion is {version}")
        case [uri, name, "rollback"]:
            print(f"{name}: champion is {Registry(Storage(uri), name).rollback()}")
        case _:
            raise RegistryError("usage: python -m cluster.registry STORAGE NAME [list | promote VERSION | rollback]")
    return 0


if __name__ == "__main__":
    run(main)
