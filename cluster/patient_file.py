"""A file whose reads outlast a server that dies in the middle: each goes on at its own offset when it is back."""

import io
from threading import RLock

import pyarrow as pa
from pyarrow import fs

from cluster.retrying import patiently


def open_patiently(filesystem: fs.FileSystem, path: str) -> pa.NativeFile:
    """The file for reading at any offset; a file of this machine as Arrow has it.

    Raises:
        FileNotFoundError: there is none.
    """
    if isinstance(filesystem, fs.LocalFileSystem):
        return filesystem.open_input_file(path)
    return pa.PythonFile(_PatientFile(filesystem, path), mode="r")


class _PatientFile(io.RawIOBase):
    """Reads ranges, and opens the file anew when one fails."""

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._file: pa.NativeFile | None = None
        self._lock = RLock()
        self._offset = 0
        self._num_bytes = patiently(lambda: int(self._opened().size()))

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes from here on, fewer at the end of the file only."""
        with self._lock:
            left = max(0, self._num_bytes - self._offset)
            wanted = left if size is None or size < 0 else min(size, left)
            content = patiently(lambda: self._range(self._offset, wanted)) if wanted else b""
            self._offset += len(content)
            return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset from the start, from here or from the end."""
        self._offset = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._num_bytes}[whence]
        return self._offset

    def tell(self) -> int:
        """The offset of the next read."""
        return self._offset

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Let go of the connection; never waits for a server."""
        self._file = None
        super().close()

    def _opened(self) -> pa.NativeFile:
        if self._file is None:
            self._file = self._filesystem.open_input_file(self._path)
        return self._file

    def _range(self, offset: int, num_bytes: int) -> bytes:
        try:
            file = self._opened()
            if file.size() != self._num_bytes:
                raise OSError(f"'{self._path}' has changed while it was read; run again")
            content = bytes(file.read_at(num_bytes, offset))
            if len(content) != num_bytes:
                raise ConnectionError(f"{len(content)} of {num_bytes} bytes of '{self._path}' came")
            return content
        except OSError:
            self._file = None
            raise
