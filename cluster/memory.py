"""Files in the memory of this process, by the name of `memory://name`: for small sets and tests, without a cluster."""

import threading
from io import BytesIO
from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

_RENAMING = threading.Lock()


def open_memory(uri: str) -> tuple[fs.PyFileSystem, str]:
    """The filesystem of this process and the path on it of `memory://name`, or of a folder below.

    Raises:
        ValueError: the URI names nothing.
    """
    path = uri.removeprefix("memory://").strip("/")
    if not path:
        raise ValueError("it has no name: memory://name")
    return fs.PyFileSystem(fs.FSSpecHandler(_Files())), f"/{path}"


class _Files(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's filesystem, whose readers share one position in a file, which renames by copies and tells no times."""

    store: ClassVar[dict[str, Any]] = {}  # not the one that others in this process use
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.rstrip("/")

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        opened = super()._open(path, mode, **options)
        return BytesIO(opened.getvalue()) if mode == "rb" else opened

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return self._with_time(super().info(path, **options))

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **options: Any) -> Any:
        found = super().find(path, maxdepth, withdirs, **options)
        return {name: self._with_time(info) for name, info in found.items()} if options.get("detail") else found

    def _with_time(self, info: dict[str, Any]) -> dict[str, Any]:
        file = self.store.get(info["name"])
        return info if file is None else {**info, "mtime": file.modified.timestamp()}

    def move_whole(self, source: str, target: str, overwrite: bool) -> None:
        """Give a file or folder another name; what was written last, such as a manifest, appears last.

        Raises:
            FileExistsError: something is there, and is not to be overwritten.
        """
        with _RENAMING:
            if self.exists(target) and not overwrite:
                raise FileExistsError(target)
            moved = [path for path in tuple(self.store) if path == source or path.startswith(f"{source}/")]
            self.pseudo_dirs[:] = [_moved(path, source, target) for path in self.pseudo_dirs]
            for path in moved:
                self.store[_moved(path, source, target)] = self.store.pop(path)


def _moved(path: str, source: str, target: str) -> str:
    is_below = path == source or path.startswith(f"{source}/")
    return target + path.removeprefix(source) if is_below else path
