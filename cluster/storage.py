"""The folders of the ring in one storage, and how a folder or a file appears there all at once.

    raw/ -> prepared/ -> plans/ -> checkpoints/ models/ -> feedback/ -> raw/      (quarantine/ beside them)

A stage's output is a folder that exists for readers only once its `manifest.json` does; the manifest is
written last. On a local disk and on HDFS the whole folder is renamed into place as well, so it never even
shows half full.

A server that is away for a moment is waited for (`cluster.retrying`).
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from pyarrow import fs

from cluster.errors import StorageError
from cluster.hdfs import open_hdfs
from cluster.memory import open_memory
from cluster.patient_file import open_patiently
from cluster.retrying import patience, patient
from cluster.s3 import open_s3, without_keys
from cluster.storage_faults import explained
from cluster.webhdfs import open_webhdfs

MANIFEST = "manifest.json"
STAGED = ".staged"
"""On object storage, where nothing is renamed, the file that tells a folder in the making from any other."""
CHECK_PATIENCE_S = 10.0
COPIED_BYTES = 8 * 2**20
"""At a time."""
OPEN = {
    "file": fs.FileSystem.from_uri,
    "s3": open_s3,
    "hdfs": open_hdfs,
    "webhdfs": open_webhdfs,
    "memory": open_memory,
}


@dataclass(frozen=True)
class Storage:
    """One storage by its URI: a local path (`~` allowed), `file://`, `s3://bucket/prefix`, `hdfs://host:port/folder`,
    `webhdfs://host:port/folder` or `memory://name`, which only this process sees.

    Paths given to its methods are relative to that URI, with forward slashes.
    Pickles as the URI alone: each process builds its own filesystem, so no credential travels.
    """

    uri: str

    def __post_init__(self) -> None:
        if "://" not in self.uri:  # absolute from here on: workers have other working folders
            object.__setattr__(self, "uri", str(Path(self.uri).expanduser().absolute()))

    def __getstate__(self) -> dict[str, str]:
        self.check_shared()
        return {"uri": self.uri}

    @cached_property
    def _root(self) -> tuple[fs.FileSystem, str]:
        kind, separator, _ = self.uri.partition("://")
        opened = OPEN.get(kind if separator else "file")
        if opened is None:
            known = "a path, s3://, hdfs://, webhdfs:// or memory://"
            raise StorageError(f"storage '{self.uri}': kind '{kind}' is unknown; give {known}")
        try:
            filesystem, root = opened(self.uri)
        except (OSError, ValueError) as error:
            shown = without_keys(self.uri) if kind == "s3" else self.uri
            raise StorageError(f"storage '{shown}' cannot be opened: {error}") from None
        return filesystem, root.rstrip("/")

    @property
    def filesystem(self) -> fs.FileSystem:
        """The pyarrow filesystem behind the URI; use it with `path`."""
        return self._root[0]

    @property
    def is_local(self) -> bool:
        """Whether the storage is a folder of this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def _renames_by_call(self) -> bool:
        return isinstance(self.filesystem, fs.PyFileSystem)

    @property
    def _renames(self) -> bool:
        return self.is_local or self._renames_by_call

    def check_shared(self) -> None:
        """Raise StorageError unless other processes see the same files; called before a cluster is started."""
        if self.uri.startswith("memory://"):
            raise StorageError(
                f"storage '{self.uri}' is in the memory of one process, where the workers of a cluster cannot see it. "
                "Give one that they can: storage=PATH_OR_URI"
            )

    def path(self, relative: str) -> str:
        """The filesystem's own path of a relative one."""
        return f"{self._root[1]}/{relative}".rstrip("/")

    def check_writable(self) -> None:
        """Raise StorageError unless a small file can be written, read back and removed."""
        probe = f".write-check-{uuid.uuid4().hex}"
        try:
            with patience(CHECK_PATIENCE_S):
                self.write(probe, b"ok")
                if self.read(probe) != b"ok":
                    raise OSError("what was written does not read back")
                self.filesystem.delete_file(self.path(probe))
        except OSError as error:
            raise StorageError(
                f"storage '{self.uri}' cannot be written: {error}. Give one that can: storage=PATH_OR_URI"
            ) from None

    @explained
    @patient
    def exists(self, relative: str) -> bool:
        """Whether there is a file or folder of this name."""
        return bool(self.filesystem.get_file_info(self.path(relative)).type != fs.FileType.NotFound)

    @explained
    @patient
    def read(self, relative: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.filesystem.open_input_stream(self.path(relative)) as stream:
            return bytes(stream.read())

    @explained
    def open(self, path: str) -> pa.NativeFile:
        """A file for reading at any offset, which outlasts a server that dies in the middle of it.

        `path` is the filesystem's own, as `files` and `path` tell it.

        Raises:
            FileNotFoundError: there is none.
        """
        return open_patiently(self.filesystem, path)

    @explained
    def write(self, relative: str, content: bytes) -> None:
        """Write a file so that it is durable on return, and a reader sees it whole or not at all."""
        if self.is_local:
            self._make_parent(relative)
            _write_durably(Path(self.path(relative)), content)
        elif self._renames_by_call:
            self._move(self._write_staged(relative, content), relative, overwrite=True)
        else:
            self._put(relative, content)

    def create(self, relative: str, content: bytes) -> None:
        """Like `write`, but the file must be new: of several writers one wins.

        On object storage the check and the write are two steps, so there it does not hold against writers of
        the very same moment.

        Raises:
            FileExistsError: another writer was first.
        """
        if self._renames_by_call:
            self._create_by_rename(relative, content)
            return
        if not self.is_local:
            if self.exists(relative):
                raise FileExistsError(relative)
            self.write(relative, content)
            return
        staged = f"{relative}.{uuid.uuid4().hex}.incoming"
        self.write(staged, content)
        try:
            os.link(self.path(staged), self.path(relative))
            _sync_folder(Path(self.path(relative)).parent)
        finally:
            os.unlink(self.path(staged))

    @explained
    @patient
    def files(self, relative: str) -> list[fs.FileInfo]:
        """The file, or every file below the folder, sorted by path; what is hidden or not yet whole is left out."""
        folder = self.path(relative)
        found = self.filesystem.get_file_info([folder])
        if found[0].type == fs.FileType.Directory:
            # An object store may still name an empty folder that it has removed.
            found = self.filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
        shown = (info for info in found if not _is_hidden(str(info.path).removeprefix(folder)))
        return sorted((info for info in shown if info.type == fs.FileType.File), key=lambda info: str(info.path))

    @explained
    @patient
    def folders(self, relative: str) -> list[str]:
        """The names of the published folders directly below `relative`, sorted."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.path(relative), allow_not_found=True))
        names = [str(info.base_name) for info in found if info.type == fs.FileType.Directory]
        return sorted(name for name in names if self.is_published(f"{relative}/{name}"))

    def is_published(self, folder: str) -> bool:
        """Whether `publish` of this folder came to its end."""
        return not _is_hidden(folder) and self.exists(f"{folder}/{MANIFEST}")

    def manifest(self, folder: str) -> dict[str, Any]:
        """The manifest of a published folder."""
        content: dict[str, Any] = json.loads(self.read(f"{folder}/{MANIFEST}"))
        return content

    def stage(self, folder: str) -> str:
        """An empty folder, unseen by readers, for any number of processes to fill and then to `commit` as `folder`."""
        staged = _hidden_beside(folder) if self._renames else folder
        self.remove(staged)  # on object storage: what a stage that died has left there
        self._make_folder(staged)
        if not self._renames:
            self.write(f"{staged}/{STAGED}", b"")
        return staged

    def discard_staged(self, parent: str) -> None:
        """Remove what writers that died have left unpublished below `parent`; nobody may be writing there."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.path(parent), allow_not_found=True))
        for info in found:
            if info.type == fs.FileType.Directory and self._is_staged(f"{parent}/{info.base_name}"):
                self.remove(f"{parent}/{info.base_name}")

    def commit(self, staged: str, folder: str, manifest: Mapping[str, Any]) -> None:
        """Make `folder` appear with all that lies in `staged`.

        A folder that is already published stays as it is: names are unique, or derived from what it was made of.
        """
        if not self._renames:
            self.remove(f"{staged}/{STAGED}")
        self.write(f"{staged}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
        if self._renames:
            self._rename(staged, folder)

    def publish(self, source: Path, folder: str, manifest: Mapping[str, Any]) -> None:
        """Make `folder` appear with the files of the local folder `source` and a manifest with their checksums."""
        files = {
            path.relative_to(source).as_posix(): sha256(path) for path in sorted(source.rglob("*")) if path.is_file()
        }
        staged = self.stage(folder)
        self.upload(source, staged)
        self.commit(staged, folder, {**manifest, "files": files})

    def copy(self, source: str, folder: str, manifest: Mapping[str, Any]) -> None:
        """Make `folder` appear with the files of a published one and with a manifest of its own.

        A folder that is already published stays as it is, as in `commit`.
        """
        if not self.is_published(folder):
            staged = self.stage(folder)
            for name in self._names(source):
                if name != MANIFEST:  # which is what makes a folder seen
                    self._copy_file(f"{source}/{name}", f"{staged}/{name}")
            self.commit(staged, folder, manifest)

    @explained
    @patient
    def _names(self, folder: str) -> list[str]:
        """Of all files below a folder, hidden ones too."""
        root = self.path(folder)
        found = self.filesystem.get_file_info(fs.FileSelector(root, recursive=True))
        return [str(info.path).removeprefix(f"{root}/") for info in found if info.type == fs.FileType.File]

    @explained
    @patient
    def _copy_file(self, source: str, target: str) -> None:
        """By way of this process: an object store copies no more than 5 GB by itself, and HDFS nothing."""
        self._make_parent(target)
        filesystem = self.filesystem
        with (
            filesystem.open_input_stream(self.path(source)) as whole,
            filesystem.open_output_stream(self.path(target)) as copy,
        ):
            shutil.copyfileobj(whole, copy, COPIED_BYTES)

    @explained
    @patient
    def upload(self, source: Path, folder: str) -> None:
        """Copy the files of a local folder below `folder`."""
        self.filesystem.create_dir(self.path(folder), recursive=True)
        fs.copy_files(str(source), self.path(folder), fs.LocalFileSystem(), self.filesystem)

    @explained
    @patient
    def download(self, folder: str, target: Path) -> None:
        """Copy the files below `folder` into a local one."""
        target.mkdir(parents=True, exist_ok=True)
        fs.copy_files(self.path(folder), str(target), self.filesystem, fs.LocalFileSystem())

    @contextmanager
    def as_local(self, folder: str) -> Iterator[Path]:
        """The folder as a local one: itself on a local storage, else a temporary copy."""
        if self.is_local:
            yield Path(self.path(folder))
            return
        with TemporaryDirectory() as scratch:
            self.download(folder, Path(scratch))
            yield Path(scratch)

    @explained
    @patient
    def remove(self, relative: str) -> None:
        """Remove a file or folder; on a folder the manifest goes first, so no reader finds it half removed."""
        info = self.filesystem.get_file_info(self.path(relative))
        if info.type == fs.FileType.File:
            self.filesystem.delete_file(info.path)
        elif info.type == fs.FileType.Directory:
            if self.exists(f"{relative}/{MANIFEST}"):
                self.filesystem.delete_file(self.path(f"{relative}/{MANIFEST}"))
            with suppress(FileNotFoundError):  # see `files`
                self.filesystem.delete_dir(info.path)

    def _is_staged(self, folder: str) -> bool:
        name = folder.rpartition("/")[2]
        return _is_hidden(name) if self._renames else self.exists(f"{folder}/{STAGED}")

    @explained
    @patient
    def _make_folder(self, relative: str) -> None:
        self.filesystem.create_dir(self.path(relative), recursive=True)

    def _make_parent(self, relative: str) -> None:
        self.filesystem.create_dir(self.path(relative).rpartition("/")[0], recursive=True)

    @explained
    @patient
    def _put(self, relative: str, content: bytes) -> None:
        self._make_parent(relative)
        with self.filesystem.open_output_stream(self.path(relative)) as stream:
            stream.write(content)

    def _write_staged(self, relative: str, content: bytes) -> str:
        staged = _hidden_beside(relative)
        self._put(staged, content)
        return staged

    def _create_by_rename(self, relative: str, content: bytes) -> None:
        staged = self._write_staged(relative, content)
        try:
            self._move(staged, relative, overwrite=False)
        except FileExistsError:
            self.remove(staged)
            raise FileExistsError(relative) from None

    def _move(self, source: str, target: str, overwrite: bool) -> None:
        self.filesystem.handler.fs.move_whole(self.path(source), self.path(target), overwrite)

    def _rename(self, source: str, target: str) -> None:
        try:
            if self._renames_by_call:
                self._move(source, target, overwrite=False)
            else:
                Path(self.path(source)).rename(self.path(target))
        except OSError:
            if not self.is_published(target):
                raise
            self.remove(source)  # another writer of the same, equal folder was first
        if self.is_local:
            _sync_folder(Path(self.path(target)).parent)


def sha256(path: Path) -> str:
    """The hex digest of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}.incoming")
    try:
        with staged.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        staged.rename(path)
    except OSError:
        staged.unlink(missing_ok=True)  # a part of a file would keep a full disk full
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hidden_beside(path: str) -> str:
    parent, slash, name = path.rpartition("/")
    return f"{parent}{slash}.{name}.{uuid.uuid4().hex}.incoming"


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/")) or path.endswith(".incoming")
