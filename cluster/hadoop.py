"""What HDFS answers, by whichever protocol it is asked: where a URI points, and errors as what they mean to us."""

from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from fsspec import AbstractFileSystem

from cluster.retrying import patiently

AWAY = ("SafeModeException", "RetriableException", "StandbyException", "BlockMissingException")
NO_DATA_NODE = ("could only be replicated to 0 nodes", "Failed to find datanode")


def place_of(uri: str) -> tuple[str, int | None, str]:
    """Host, port and path of `hdfs://host:port/folder` or one of its kin.

    Raises:
        ValueError: the URI is not of that form.
    """
    kind, _, rest = uri.partition("://")
    place, _, path = rest.partition("/")
    server = urlsplit(f"{kind}://{place}")
    if not server.hostname:
        raise ValueError(f"it names no host: {kind}://host:port/folder")
    if server.username is not None:
        raise ValueError("the user is set by HADOOP_USER_NAME, not in the URI")
    return server.hostname, server.port, f"/{unquote(path)}"


def remote_error(kind: str, message: str) -> OSError:
    """An exception of the NameNode or a DataNode by its Java name: ConnectionError where trying again may help."""
    message = first_line(message)
    if kind in ("AccessControlException", "SecurityException"):
        return PermissionError(message)
    if kind == "FileNotFoundException":
        return FileNotFoundError(message)
    if kind == "FileAlreadyExistsException":
        return FileExistsError(message)
    is_away = kind in AWAY or any(told in message for told in NO_DATA_NODE)
    return ConnectionError(message) if is_away else OSError(f"{kind}: {message}")


def first_line(text: str) -> str:
    """Without the stack that follows."""
    return text.partition("\n")[0].partition("\\n")[0]


class HonestFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """What fsspec itself answers wrongly where a server is away, and renaming as we need it; before another class of
    fsspec's, which has `rename_once(source, target, overwrite)`."""

    def move_whole(self, source: str, target: str, overwrite: bool) -> None:
        """Give a file or folder another name, at once; `overwrite` puts a file in the place of another.

        Raises:
            FileExistsError: something is there, and is not to be overwritten.
        """
        try:
            patiently(lambda: self.rename_once(source, target, overwrite))
        except FileNotFoundError:
            self.info(target)  # it is there: sent twice, since no answer came to the first

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **options: Any
    ) -> Any:
        """What lies below a folder; fsspec's own leaves out what it cannot list."""
        found: dict[str, Any] = {}
        waiting = [(path, 1)]
        while waiting:
            folder, depth = waiting.pop()
            with suppress(FileNotFoundError):  # removed since its parent was listed
                for info in self.ls(folder, detail=True):
                    is_folder = info["type"] == "directory"
                    if withdirs or not is_folder:
                        found[info["name"]] = info
                    if is_folder and (maxdepth is None or depth < maxdepth):
                        waiting.append((info["name"], depth + 1))
        return found if detail else sorted(found)

    def exists(self, path: str, **options: Any) -> bool:
        """fsspec's own takes a server that is away for a file that is missing."""
        return self._kind(path) is not None

    def isfile(self, path: str) -> bool:
        """See `exists`."""
        return self._kind(path) == "file"

    def isdir(self, path: str) -> bool:
        """See `exists`."""
        return self._kind(path) == "directory"

    def _kind(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None
