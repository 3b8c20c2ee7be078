"""Storage in the memory of one process."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from cluster.errors import StorageError
from cluster.storage import Storage
from tests.cluster.test_storage import published, visible

NAMES = count()


@pytest.fixture
def storage() -> Storage:
    return Storage(f"memory://test {next(NAMES)}/below")


def test_two_of_a_name_are_one_and_two_of_different_names_are_apart(storage: Storage) -> None:
    storage.check_writable()
    storage.write("raw/a", b"x")
    assert Storage(storage.uri).read("raw/a") == b"x"
    assert not Storage(storage.uri + "2").exists("raw/a")
    assert visible(storage, "") == ["/raw/a"]


def test_a_folder_is_published_whole_and_stays_as_it_is(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_bytes(b"content")
    storage.publish(tmp_path, "prepared/a", {"rows": 3})
    storage.publish(tmp_path, "prepared/a", {"rows": 4})
    assert storage.folders("prepared") == ["a"]
    assert storage.manifest("prepared/a")["rows"] == 3
    assert published(storage, "prepared/a") == {"below/a": b"content"}
    assert visible(storage, "prepared") == ["/a/below/a", "/a/manifest.json"]
    with storage.as_local("prepared/a") as folder:
        assert (folder / "below/a").read_bytes() == b"content"
    storage.remove("prepared/a")
    assert storage.files("prepared") == []


def test_a_half_filled_folder_is_not_seen_and_discarded(storage: Storage) -> None:
    staged = storage.stage("prepared/a")
    storage.write(f"{staged}/part-0", b"half")
    assert (storage.folders("prepared"), visible(storage, "prepared")) == ([], [])
    storage.discard_staged("prepared")
    assert not storage.exists(staged)


def test_of_many_creators_of_one_file_exactly_one_wins(storage: Storage) -> None:
    def create(number: int) -> int | None:
        try:
            storage.create("feedback/batch", b"%d" % number)
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(6) as threads:
        (winner,) = [number for number in threads.map(create, range(50)) if number is not None]
    assert storage.read("feedback/batch") == b"%d" % winner
    assert visible(storage, "feedback") == ["/batch"]


def test_a_rewritten_file_is_whole_for_readers_of_the_same_moment(storage: Storage) -> None:
    storage.write("plans/best", b"a" * 10_000)
    with ThreadPoolExecutor(4) as threads:
        writing = threads.submit(lambda: [storage.write("plans/best", letter * 10_000) for letter in (b"b", b"a") * 50])
        reading = [threads.submit(storage.read, "plans/best") for _ in range(200)]
        assert {read.result() for read in reading} <= {b"a" * 10_000, b"b" * 10_000}
        writing.result()


def test_files_tell_their_size_and_time_of_change(storage: Storage) -> None:
    started = time.time()
    storage.write("raw/a", b"xy")
    (info,) = storage.files("raw")
    assert info.size == 2
    assert started - 1 < info.mtime.timestamp() < time.time() + 1


def test_what_would_leave_the_process_is_refused(storage: Storage) -> None:
    told = rf"storage '{storage.uri}' is in the memory of one process.*cannot see it. Give one .*storage=PATH_OR_URI"
    with pytest.raises(StorageError, match=told):
        storage.check_shared()
    with pytest.raises(StorageError, match=told):
        pickle.dumps(storage)


def test_one_without_a_name_is_refused() -> None:
    with pytest.raises(StorageError, match="storage 'memory://' cannot be opened: it has no name: memory://name"):
        Storage("memory://").check_writable()
