"""HDFS over HTTP as a pyarrow filesystem, for where its own protocol does not get through (a firewall, an HttpFS
gateway); the user is HADOOP_USER_NAME, else the system's.

fsspec's filesystem takes a refusal of a DataNode for the content of a file, waits for ever for a server that hangs, and
tells errors apart in their text alone. Here each is an OSError of one line, and waiting is left to `cluster.retrying`.
"""

import getpass
import os
import time
from typing import Any
from urllib.parse import quote

import requests
from fsspec.implementations.webhdfs import WebHDFile, WebHDFS
from pyarrow import fs

from cluster.hadoop import HonestFiles, first_line, place_of, remote_error
from cluster.retrying import patiently

PORT = 9870
"""Of a NameNode's HTTP address since Hadoop 3."""
TIMEOUT_S = (5, 20)
"""For a connection, and for each piece of an answer."""
WRITE_BYTES = 16 * 1024 * 1024
"""What is held of a file that is written, and sent at once."""
CLOSED_WITHIN_S = 5.0
"""How long a DataNode may take to close a file that it has all of."""
POLL_S = 0.1
BYTES = {"content-type": "application/octet-stream"}


def open_webhdfs(uri: str) -> tuple[fs.PyFileSystem, str]:
    """The filesystem and the path on it of `webhdfs://host:port/folder`.

    Raises:
        ValueError: the URI is not of that form.
    """
    host, port, path = place_of(uri)
    return fs.PyFileSystem(fs.FSSpecHandler(_Files(host, port or PORT))), path


class _Files(HonestFiles, WebHDFS):  # type: ignore[misc]  # fsspec has no types
    """Waits for servers that are away wherever doing a thing twice does no harm."""

    cachable = False  # processes that are forked would share a connection

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host=host, port=port, user=os.environ.get("HADOOP_USER_NAME") or getpass.getuser())

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.rstrip("/") or "/"

    def _call(
        self,
        op: str,
        method: str = "get",
        path: str = "/",
        data: bytes | None = None,
        redirect: bool = True,
        **parameters: Any,
    ) -> requests.Response:
        """One operation on a path; `redirect` follows the NameNode to the DataNode that it names."""
        asked = {**parameters, **self.pars, "op": op}
        return self.sent(method, self.url + quote(path), params=asked, data=data, allow_redirects=redirect)

    def sent(self, method: str, url: str, **options: Any) -> requests.Response:
        """The answer of a NameNode or a DataNode.

        Raises:
            OSError: it refuses, or (ConnectionError) there is none.
        """
        try:
            answer: requests.Response = self.session.request(method.upper(), url, timeout=TIMEOUT_S, **options)
        except requests.RequestException as error:
            raise ConnectionError(_cause(error)) from None
        if answer.status_code < 400:
            return answer
        try:
            told = answer.json()["RemoteException"]
        except (ValueError, KeyError):
            told = None
        if told:
            raise remote_error(told["exception"], told["message"])
        message = f"HTTP status {answer.status_code} of {method.upper()} {url.partition('?')[0]}"
        raise ConnectionError(message) if answer.status_code >= 500 else OSError(message)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """With the time of change, which fsspec's own leaves out."""
        return _with_time(patiently(lambda: super(_Files, self).info(path)))

    def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        """See `info`."""
        infos = [_with_time(info) for info in patiently(lambda: super(_Files, self).ls(path, detail=True))]
        return infos if detail else [info["name"] for info in infos]

    def mkdir(self, path: str, **options: Any) -> None:
        """With the folders above it."""
        patiently(lambda: super(_Files, self).mkdir(path))

    def rm(self, path: str, recursive: bool = False, **options: Any) -> None:
        """Nothing is said of what was not there."""
        patiently(lambda: super(_Files, self).rm(path, recursive))

    def rename_once(self, source: str, target: str, overwrite: bool) -> None:
        """See `HonestFiles.move_whole`."""
        how = "OVERWRITE" if overwrite else "NONE"  # without one a folder would be moved into another
        self._call("RENAME", "put", source, destination=target, renameoptions=how)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> "_File":
        return _File(self, path, mode=mode, block_size=WRITE_BYTES, tempdir="", autocommit=True)


class _File(WebHDFile):  # type: ignore[misc]  # fsspec has no types
    def _fetch_range(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`; the end of the file may come before that."""
        wanted = min(self.size, end) - start
        if wanted <= 0:
            return b""

        def fetch() -> bytes:
            content = self.fs._call("OPEN", path=self.path, offset=start, length=wanted).content
            if len(content) != wanted:
                raise ConnectionError(f"{len(content)} of {wanted} bytes of '{self.path}' came")
            return bytes(content)

        return patiently(fetch)

    def _initiate_upload(self) -> None:
        self.is_made = False

    def _upload_chunk(self, final: bool = False) -> bool:
        """Make the file of the first piece, and append the others."""
        op, method = ("APPEND", "post") if self.is_made else ("CREATE", "put")
        how = {} if self.is_made else {"overwrite": "true"}
        asked = self.fs._call(op, method, self.path, redirect=False, **how)  # it would send the content in vain
        self.fs.sent(method, asked.headers["Location"], data=self.buffer.getvalue(), headers=BYTES)
        self.is_made = True
        self._check_kept(self.offset + self.buffer.tell())
        return True

    def _check_kept(self, num_bytes: int) -> None:
        """Raise OSError unless the file has so many bytes: a DataNode says yes before it has closed the file, and says
        nothing of a quota or a disk that was in the way."""
        ends = time.monotonic() + CLOSED_WITHIN_S
        while (kept := self.fs.info(self.path)["size"]) != num_bytes:
            if time.monotonic() > ends:
                raise OSError(f"a DataNode kept {kept:,} of {num_bytes:,} bytes")
            time.sleep(POLL_S)


def _with_time(info: dict[str, Any]) -> dict[str, Any]:
    """As pyarrow takes it; of a file that was listed itself, the name has a slash too many."""
    return {**info, "name": info["name"].rstrip("/") or "/", "mtime": info["modificationTime"] / 1000}


def _cause(error: BaseException) -> str:
    """What lies under the errors of several libraries."""
    while error.__context__:
        error = error.__context__
    return getattr(error, "strerror", None) or first_line(str(error))
