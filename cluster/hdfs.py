"""HDFS as a pyarrow filesystem, by its own protocol and without Java; the user is HADOOP_USER_NAME, else the system's.

hdfs-native tells most errors apart in their text alone and waits three minutes for a NameNode that is away. Here each
is an OSError of one line, and waiting is left to `cluster.retrying`.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hdfs_native import Client, FileReader, FileWriter, WriteOptions
from hdfs_native.fsspec import HdfsFileSystem
from pyarrow import fs

from cluster.hadoop import HonestFiles, first_line, place_of, remote_error
from cluster.retrying import patiently

SETTINGS = {
    "dfs.client.failover.max.attempts": "3",
    "dfs.client.failover.sleep.base.millis": "100",
    "dfs.client.failover.sleep.max.millis": "500",
    "dfs.client.socket-timeout": "20000",
}
REMOTE_ERROR = re.compile(r'RPCError\("(?:[\w.]*\.)?([\w$]+)", "((?:[^"\\]|\\.)*)')
AWAY_KINDS = ("DataTransferError", "OperationFailed", "BlocksNotFound", "InternalError", "InvalidRPCResponse")

Result = TypeVar("Result")


def open_hdfs(uri: str) -> tuple[fs.PyFileSystem, str]:
    """The filesystem and the path on it of `hdfs://host:port/folder`, or `hdfs://nameservice/folder`.

    Raises:
        ValueError: the URI is not of that form.
    """
    host, port, path = place_of(uri)
    return fs.PyFileSystem(fs.FSSpecHandler(_Files(host, port, **SETTINGS))), path


class _Files(HonestFiles, HdfsFileSystem):
    """hdfs-native's filesystem, which takes `?` and `#` in a path for parts of a URI and tells no time of change."""

    cachable = False  # processes that are forked would share a connection

    def __init__(self, host: str, port: int | None = None, **settings: str) -> None:
        super().__init__(host, port, **settings)
        self.client = _Client(f"hdfs://{host}:{port}" if port else f"hdfs://{host}", settings)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.rstrip("/") or "/"

    def rename_once(self, source: str, target: str, overwrite: bool) -> None:
        """See `HonestFiles.move_whole`."""
        self.client.rename(source, target, overwrite)

    def _convert_file_status(self, file_status: Any) -> dict[str, Any]:
        return {**super()._convert_file_status(file_status), "mtime": file_status.modification_time / 1000}


class _Client(Client):
    """Waits for servers that are away wherever doing a thing twice does no harm."""

    def get_file_info(self, path: str) -> Any:
        return _repeatable(lambda: super(_Client, self).get_file_info(path))

    def list_status(self, path: str, recursive: bool = False) -> Iterator[Any]:
        return iter(_repeatable(lambda: list(super(_Client, self).list_status(path, recursive))))

    def read(self, path: str) -> FileReader:
        return _Reader(_repeatable(lambda: self.inner.read(path)))

    def create(self, path: str, write_options: WriteOptions | None = None) -> FileWriter:
        return _Writer(_repeatable(lambda: self.inner.create(path, write_options or WriteOptions())))

    def mkdirs(self, path: str, permission: int = 0o755, create_parent: bool = False) -> None:
        _repeatable(lambda: super(_Client, self).mkdirs(path, permission, create_parent))

    def rename(self, src: str, dst: str, overwrite: bool = False) -> None:
        with _told():
            super().rename(src, dst, overwrite)

    def delete(self, path: str, recursive: bool = False) -> bool:
        return _repeatable(lambda: super(_Client, self).delete(path, recursive))


class _Reader(FileReader):
    def read(self, size: int = -1) -> bytes:
        start = self.tell()

        def again() -> bytes:
            self.seek(start)
            return super(_Reader, self).read(size)

        return _repeatable(again)

    def readall(self) -> bytes:
        return self.read()


class _Writer(FileWriter):
    def write(self, buf: Any) -> int:
        with _told():
            return super().write(buf)

    def close(self) -> None:
        with _told():
            super().close()


def _repeatable(call: Callable[[], Result]) -> Result:
    def told() -> Result:
        with _told():
            return call()

    return patiently(told)


@contextmanager
def _told() -> Iterator[None]:
    """Errors as OSErrors of one line; ConnectionError where trying again may help."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, IsADirectoryError) as error:
        raise type(error)(first_line(str(error))) from None
    except (OSError, RuntimeError) as error:
        raise _plain(error) from None


def _plain(error: OSError | RuntimeError) -> OSError:
    text = str(error)
    remote = REMOTE_ERROR.match(text)
    if remote:
        return remote_error(remote[1], remote[2].replace('\\"', '"'))
    if isinstance(error, OSError) or text.startswith(AWAY_KINDS):
        return ConnectionError(first_line(text).partition(": [DatanodeInfo")[0])
    return OSError(first_line(text))
