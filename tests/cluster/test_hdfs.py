"""Storage on a real HDFS, by its own protocol and over HTTP."""

import os
import pickle
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from cluster import webhdfs
from cluster.errors import StorageError
from cluster.hdfs import open_hdfs
from cluster.retrying import patience
from cluster.storage import Storage
from tests.cluster.test_storage import published, start, visible
from tests.hdfs import DATA_NODE, NAME_NODE, HdfsServer

NUM_FILES = 3  # each takes half a second to be closed


KINDS = ("hdfs", "webhdfs")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of URI."""
    return str(request.param)


@pytest.fixture
def storage(hdfs: HdfsServer, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(webhdfs, "CLOSED_WITHIN_S", 60.0)  # a busy machine is slow to close a file
    return hdfs.storage(request.node.originalname, kind)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source" / "below"
    folder.mkdir(parents=True)
    for number in range(NUM_FILES):
        (folder / f"{number}.bin").write_bytes(os.urandom(20_000))
    return folder.parent


def restart(hdfs: HdfsServer, program: str, after_s: float) -> None:
    """Kill a server now and have it start again later."""
    hdfs.kill(program)
    hdfs.start(program, after_s)


@pytest.mark.services
def test_a_folder_is_published_whole_by_one_rename(storage: Storage, source: Path) -> None:
    storage.check_writable()
    storage.publish(source, "prepared/a", {"rows": 3})
    assert storage.folders("prepared") == ["a"]
    assert published(storage, "prepared/a")["below/2.bin"] == (source / "below/2.bin").read_bytes()
    with storage.as_local("prepared/a") as folder:
        assert (folder / "below/2.bin").read_bytes() == (source / "below/2.bin").read_bytes()
    storage.publish(source, "prepared/a", {"rows": 4})
    assert storage.manifest("prepared/a")["rows"] == 3
    assert [info.base_name for info in storage.filesystem.get_file_info(selector(storage, "prepared"))] == ["a"]
    storage.remove("prepared/a")
    assert storage.folders("prepared") == []
    assert storage.files("prepared/a") == []


def selector(storage: Storage, folder: str) -> pa.fs.FileSelector:
    return pa.fs.FileSelector(storage.path(folder))


@pytest.mark.services
def test_a_half_filled_folder_is_not_seen_and_discarded(storage: Storage) -> None:
    storage.write(f"{storage.stage('prepared/a')}/part-0", b"half")
    assert storage.folders("prepared") == []
    assert visible(storage, "prepared") == []
    storage.discard_staged("prepared")
    assert storage.filesystem.get_file_info(selector(storage, "prepared")) == []


@pytest.mark.services
def test_a_file_is_rewritten_and_a_time_of_change_is_told(storage: Storage) -> None:
    started = time.time()
    storage.write("plans/best", b"a")
    storage.write("plans/best", b"bb")
    assert storage.read("plans/best") == b"bb"
    (info,) = storage.files("plans")
    assert info.size == 2
    assert started - 5 < info.mtime.timestamp() < time.time() + 5
    assert visible(storage, "plans") == ["/best"]


@pytest.mark.services
def test_of_many_creators_of_one_file_exactly_one_wins(storage: Storage) -> None:
    def create(number: int) -> int | None:
        try:
            Storage(storage.uri).create("feedback/batch", b"%d" % number)
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(6) as threads:
        (winner,) = [number for number in threads.map(create, range(6)) if number is not None]
    assert storage.read("feedback/batch") == b"%d" % winner
    assert len(storage.filesystem.get_file_info(selector(storage, "feedback"))) == 1


@pytest.mark.services
@pytest.mark.parametrize("name", ["with space", "ünïcode", "per%20cent", "q?m=1#x;y"])
def test_any_name_can_be_read_and_listed(storage: Storage, kind: str, name: str) -> None:
    if kind == "webhdfs" and "%" in name:
        pytest.skip("the DataNodes of Hadoop 2 decode a name twice")
    storage.write(f"raw/{name}/file {name}", b"x")
    assert storage.read(f"raw/{name}/file {name}") == b"x"
    assert visible(storage, f"raw/{name}") == [f"/file {name}"]
    storage.write(f"raw/{name}/file {name}", b"0123456789")
    with storage.open(storage.files(f"raw/{name}")[0].path) as file:
        assert (file.read_at(3, 4), file.size()) == (b"456", 10)


@pytest.mark.services
def test_a_copy_is_of_all_files_and_leaves_nothing_else(storage: Storage) -> None:
    staged = storage.stage("steps/a")
    storage.write(f"{staged}/.metadata", b"of torch")
    storage.write(f"{staged}/0/weights", b"0123456789" * 10**6)
    storage.commit(staged, "steps/a", {"step": 1})
    storage.copy("steps/a", "other/b", {"step": 2})
    assert storage.manifest("other/b") == {"step": 2}
    assert storage.read("other/b/0/weights") == storage.read("steps/a/0/weights")
    assert storage.read("other/b/.metadata") == b"of torch"
    assert visible(storage, "other/b") == ["/0/weights", "/manifest.json"]
    shown = storage.filesystem.get_file_info(selector(storage, "other/b"))
    assert sorted(info.base_name for info in shown) == [".metadata", "0", "manifest.json"]


def test_a_uri_is_taken_apart_as_others_are() -> None:
    assert open_hdfs("hdfs://node:8020/my%20ring/a")[1] == "/my ring/a"
    for wrong, told in {"hdfs:///a": "names no host", "hdfs://me@node:8020/a": "HADOOP_USER_NAME"}.items():
        with pytest.raises(StorageError, match=told):
            Storage(wrong).check_writable()


@pytest.mark.services
def test_more_than_a_thousand_files_are_listed(storage: Storage) -> None:
    storage.filesystem.create_dir(storage.path("raw"), recursive=True)

    def touch(number: int) -> None:
        storage.filesystem.open_output_stream(storage.path(f"raw/{number:04}")).close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(touch, range(1100)))
    assert visible(storage, "raw") == [f"/{number:04}" for number in range(1100)]


@pytest.mark.services
def test_parquet_is_written_and_read_through_its_filesystem_also_when_that_was_pickled(storage: Storage) -> None:
    table = pa.table({"x": range(100_000), "y": [f"row {number}" for number in range(100_000)]})
    storage.filesystem.create_dir(storage.path("raw"))
    pq.write_table(table, storage.path("raw/a.parquet"), filesystem=storage.filesystem, row_group_size=10_000)
    copy = pickle.loads(pickle.dumps(storage))
    assert copy == storage
    filesystem = pickle.loads(pickle.dumps(storage.filesystem))
    assert pq.read_table(copy.path("raw/a.parquet"), columns=["x"], filesystem=copy.filesystem) == table.select(["x"])
    assert ds.dataset(storage.path("raw"), filesystem=filesystem).to_table() == table


@pytest.mark.services
def test_what_is_missing_or_denied_is_told_in_one_line(storage: Storage) -> None:
    assert not storage.exists("raw/a")
    assert storage.files("raw") == []
    with pytest.raises(FileNotFoundError) as missing:
        storage.read("raw/a")
    assert "\n" not in str(missing.value)
    assert "/raw/a" in str(missing.value)
    with pytest.raises(StorageError, match="cannot be written: Permission denied: user=tester, access=WRITE") as denied:
        Storage(f"{storage.uri.partition('/ring')[0]}/elsewhere").check_writable()
    assert "\n" not in str(denied.value)


@pytest.mark.services
def test_a_quota_that_is_used_up_is_told_with_the_way_out(
    hdfs: HdfsServer, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhdfs, "CLOSED_WITHIN_S", 1.0)  # the file never is
    hdfs.limit(storage, 1000)
    with pytest.raises(StorageError, match=r"its quota is used up .*\(.*\)\. Raise the quota") as told:
        storage.write("raw/a", b"x" * 2000)
    assert "\n" not in str(told.value)


@pytest.mark.services
def test_the_user_is_the_one_of_hadoop_user_name(hdfs: HdfsServer, storage: Storage) -> None:
    storage.check_writable()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HADOOP_USER_NAME", "stranger")
        with pytest.raises(StorageError, match="Permission denied: user=stranger"):
            Storage(storage.uri).check_writable()


def test_a_host_that_refuses_is_told_within_seconds(pauses: list[float]) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        storage = Storage(f"hdfs://127.0.0.1:{bound.getsockname()[1]}/ring")
        started = time.monotonic()
        with (
            patience(0.3),
            pytest.raises(StorageError, match=r"cannot be written: no answer, tried for .* s: Connection refused"),
        ):
            storage.check_writable()
        assert 0 < sum(pauses) <= 0.3
        assert time.monotonic() - started < 60  # left to itself the client would wait for three minutes


@pytest.mark.services
@pytest.mark.usefixtures("long_patience")
def test_kill_9_of_the_data_node_is_waited_out_by_a_reader(hdfs: HdfsServer, storage: Storage) -> None:
    storage.write("raw/before", b"x" * 3_000_000)
    restart(hdfs, DATA_NODE, after_s=1.0)
    assert storage.read("raw/before") == b"x" * 3_000_000


@pytest.mark.services
@pytest.mark.parametrize("program", [NAME_NODE, DATA_NODE])
def test_kill_9_of_a_server_under_a_writing_process_loses_and_doubles_nothing(
    hdfs: HdfsServer, storage: Storage, program: str, long_patience: str
) -> None:
    folder = program.rpartition(".")[2]
    child = start(
        f"{long_patience}import cluster.webhdfs; cluster.webhdfs.CLOSED_WITHIN_S = 60.0\n"
        f"for n in range(8):\n storage.write(f'{folder}/{{n}}', b'%d' % n * 2_000_000); print(n, flush=True)",
        storage.uri,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"0\n"
    restart(hdfs, program, after_s=0.5)
    _, errors = child.communicate()
    assert child.returncode == 0, errors.decode()[-2000:]
    assert visible(storage, folder) == [f"/{n}" for n in range(8)]
    assert all(storage.read(f"{folder}/{n}") == b"%d" % n * 2_000_000 for n in range(8))


@pytest.mark.services
def test_a_name_node_that_stays_away_is_given_up_with_one_line(hdfs: HdfsServer, storage: Storage) -> None:
    storage.write("raw/a", b"x")
    hdfs.kill(NAME_NODE)
    try:
        with patience(2), pytest.raises(TimeoutError, match=r"no answer, tried for \d+ s: Connection refused") as told:
            storage.read("raw/a")
        assert "\n" not in str(told.value)
    finally:
        hdfs.start(NAME_NODE)
        hdfs.wait_until_ready()
    assert storage.read("raw/a") == b"x"
