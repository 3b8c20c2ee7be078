"""Reads that outlast a server; a filesystem that fails at chosen moments, and real servers that are killed."""

import gzip
import io
import os
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from cluster.patient_file import open_patiently
from cluster.retrying import patience
from cluster.storage import Storage
from tests.hdfs import DATA_NODE, NAME_NODE, HdfsServer
from tests.s3 import S3Server

CONTENT = os.urandom(300_000)


class Flaky(fs.FSSpecHandler):
    """Local files, where `fails` says of every open and read whether the connection breaks."""

    def __init__(self, fails: Iterator[bool]) -> None:
        super().__init__(LocalFileSystem())
        self.fails = fails
        self.num_failed = 0

    def broken(self) -> None:
        if next(self.fails):
            self.num_failed += 1
            raise ConnectionResetError("the server is gone")

    def open_input_file(self, path: str) -> pa.NativeFile:
        self.broken()
        return pa.PythonFile(FlakyFile(path, self), mode="r")


class FlakyFile(io.FileIO):
    def __init__(self, path: str, handler: Flaky) -> None:
        super().__init__(path)
        self.handler = handler

    def read(self, size: int | None = -1) -> bytes:
        self.handler.broken()
        return super().read(size)


def flaky(*fails: bool) -> tuple[Flaky, fs.PyFileSystem]:
    handler = Flaky(cycle(fails))
    return handler, fs.PyFileSystem(handler)


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "file").write_bytes(CONTENT)
    return str(tmp_path / "file")


def test_reads_go_on_at_their_offset_however_often_the_connection_breaks(path: str) -> None:
    handler, filesystem = flaky(True, False, False, True, True, False, False)
    with open_patiently(filesystem, path) as file:
        parts = [file.read(100_000), file.read(50_000), file.read(1_000_000), file.read(1)]
        assert parts == [CONTENT[:100_000], CONTENT[100_000:150_000], CONTENT[150_000:], b""]
        file.seek(7)
        assert (file.read(3), file.tell(), file.size()) == (CONTENT[7:10], 10, len(CONTENT))
        assert file.read_at(5, 299_990) == CONTENT[299_990:299_995]
    assert handler.num_failed >= 3


def test_gzip_and_parquet_are_read_through_it(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(CONTENT))
    table = pa.table({"x": range(10_000), "y": [str(number) for number in range(10_000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1000)
    handler, filesystem = flaky(False, False, True)
    with open_patiently(filesystem, str(tmp_path / "a.gz")) as file:
        assert pa.input_stream(file, "gzip", 50_000).read() == CONTENT
    with open_patiently(filesystem, str(tmp_path / "a.parquet")) as file:
        assert pq.ParquetFile(file, pre_buffer=True).read().equals(table)
    assert handler.num_failed >= 2


def test_a_server_that_stays_away_is_given_up(path: str, pauses: list[float]) -> None:
    _, filesystem = flaky(True)
    with patience(0.3), pytest.raises(TimeoutError, match="no answer, tried for 0 s: the server is gone"):
        open_patiently(filesystem, path)
    assert 0 < sum(pauses) <= 0.3


def test_a_file_that_is_not_there_is_told_at_once(path: str) -> None:
    _, filesystem = flaky(False)
    with pytest.raises(FileNotFoundError):
        open_patiently(filesystem, f"{path} else")


def test_a_file_that_changes_while_it_is_read_is_refused(path: str) -> None:
    _, filesystem = flaky(False, False, True)
    with open_patiently(filesystem, path) as file:
        file.read(10)
        Path(path).write_bytes(CONTENT[:-1])
        with pytest.raises(OSError, match="has changed while it was read; run again"):
            file.read(10)


def test_a_file_of_this_machine_is_as_arrow_has_it(path: str) -> None:
    with Storage(str(Path(path).parent)).open(path) as file:
        assert not isinstance(file, pa.PythonFile)
        assert file.read() == CONTENT


def read_through_a_kill(storage: Storage, kill_and_start: Any) -> None:
    storage.write("raw/large", CONTENT * 20)
    with storage.open(storage.path("raw/large")) as file:
        parts = [file.read(1_000_000)]
        kill_and_start()
        while part := file.read(1_000_000):
            parts.append(part)
    assert b"".join(parts) == CONTENT * 20


@pytest.mark.services
@pytest.mark.usefixtures("long_patience")
def test_kill_9_of_an_s3_server_in_the_middle_of_a_file_is_outlasted(s3: S3Server) -> None:
    def kill_and_start() -> None:
        s3.kill()
        s3.start(after_s=1.0)

    read_through_a_kill(s3.storage("patient"), kill_and_start)


@pytest.mark.services
@pytest.mark.usefixtures("long_patience")
@pytest.mark.parametrize("program", [NAME_NODE, DATA_NODE])
def test_kill_9_of_an_hdfs_server_in_the_middle_of_a_file_is_outlasted(hdfs: HdfsServer, program: str) -> None:
    def kill_and_start() -> None:
        hdfs.kill(program)
        hdfs.start(program, after_s=1.0)

    read_through_a_kill(hdfs.storage(f"patient-{program}"), kill_and_start)
    hdfs.wait_until_ready()
