import hashlib
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import StorageError
from cluster.storage import Storage, sha256
from tests.s3 import S3Server

NUM_FILES = 20


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "ring"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source" / "below"
    folder.mkdir(parents=True)
    for number in range(NUM_FILES):
        (folder / f"{number}.bin").write_bytes(os.urandom(20_000))
    return folder.parent


def start(code: str, *arguments: object) -> "subprocess.Popen[bytes]":
    """A real process with `storage` made of its first argument and the others in `given`."""
    prepare = "import sys, time; from pathlib import Path; from cluster.storage import Storage\n"
    prepare += "storage, given = Storage(sys.argv[1]), sys.argv[2:]\n"
    return subprocess.Popen(
        [sys.executable, "-c", prepare + code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def visible(storage: Storage, folder: str) -> list[str]:
    return [str(info.path).removeprefix(storage.path(folder)) for info in storage.files(folder)]


def names_in(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()]


def assert_whole(storage: Storage, folder: str) -> None:
    checksums = storage.manifest(folder)["files"]
    assert len(checksums) == NUM_FILES
    assert all(sha256(Path(storage.path(f"{folder}/{name}"))) == digest for name, digest in checksums.items())


def test_a_published_folder_has_every_file_and_its_checksum(storage: Storage, source: Path) -> None:
    storage.publish(source, "prepared/a", {"rows": 3})
    assert storage.folders("prepared") == ["a"]
    assert storage.manifest("prepared/a")["rows"] == 3
    assert_whole(storage, "prepared/a")


def test_a_half_filled_folder_is_neither_published_nor_listed(storage: Storage) -> None:
    staged = storage.stage("prepared/a")
    storage.write(f"{staged}/part-0", b"x")
    assert storage.folders("prepared") == []
    assert visible(storage, "prepared") == []
    assert not storage.is_published("prepared/a")
    assert not storage.is_published(staged)
    storage.commit(staged, "prepared/a", {})
    assert storage.folders("prepared") == ["a"]
    assert visible(storage, "prepared") == ["/a/manifest.json", "/a/part-0"]


def test_a_folder_without_a_manifest_is_not_published(storage: Storage) -> None:
    storage.write("models/m/v1/weights", b"x")
    assert storage.folders("models/m") == []
    assert not storage.is_published("models/m/v1")


def test_kill_9_between_staging_and_commit_leaves_nothing_visible(storage: Storage) -> None:
    child = start(
        "staged = storage.stage('models/m/v1'); storage.write(staged + '/weights', b'x')\n"
        "storage.write(staged + '/manifest.json', b'{}'); print('staged', flush=True); time.sleep(60)",
        storage.uri,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"staged\n"
    child.kill()
    child.wait()
    assert storage.folders("models/m") == []
    assert visible(storage, "models") == []


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.05, 0.11, 0.23])
def test_kill_9_at_any_moment_of_publishing_leaves_only_whole_folders(
    storage: Storage, source: Path, delay_s: float
) -> None:
    child = start(
        "print('go', flush=True)\nfor n in range(10_000): storage.publish(Path(given[0]), f'models/m/v{n}', {})",
        storage.uri,
        source,
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(delay_s)
    child.kill()
    child.wait()
    for version in storage.folders("models/m"):
        assert_whole(storage, f"models/m/{version}")


def test_of_many_publishers_of_one_folder_all_succeed_and_it_is_whole(storage: Storage, source: Path) -> None:
    children = [start("storage.publish(Path(given[0]), 'prepared/a', {})", storage.uri, source) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    assert storage.folders("prepared") == ["a"]
    assert_whole(storage, "prepared/a")
    assert names_in(storage.path("prepared")) == ["a"]


def test_of_many_creators_of_one_file_exactly_one_wins(storage: Storage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    children = [
        start(
            f"while not Path(given[0]).exists(): pass\nstorage.create('feedback/batch', b'{number}')",
            storage.uri,
            gate,
        )
        for number in range(6)
    ]
    time.sleep(1.0)  # so that they wait at the gate together; the outcome does not hang on it
    gate.touch()
    ended = [(child.wait(), child.communicate()[1]) for child in children]
    winners = [number for number, (code, _) in enumerate(ended) if code == 0]
    assert len(winners) == 1
    assert all(b"FileExistsError" in error for code, error in ended if code)
    assert storage.read("feedback/batch") == str(winners[0]).encode()
    assert names_in(storage.path("feedback")) == ["batch"]


def test_a_rewritten_file_is_whole_at_any_moment_and_after_kill_9_of_its_writer(storage: Storage) -> None:
    storage.write("plans/best", b"a" * 100_000)
    child = start(
        "while True:\n for letter in (b'b', b'a'): storage.write('plans/best', letter * 100_000)", storage.uri
    )
    try:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            assert storage.read("plans/best") in (b"a" * 100_000, b"b" * 100_000)
    finally:
        child.kill()
        child.wait()
    assert storage.read("plans/best") in (b"a" * 100_000, b"b" * 100_000)
    assert visible(storage, "plans") == ["/best"]


def test_removing_a_folder_takes_its_manifest_first(storage: Storage, source: Path) -> None:
    storage.publish(source, "prepared/a", {})
    storage.remove("prepared/a")
    assert storage.folders("prepared") == []
    assert not storage.exists("prepared/a")
    storage.remove("prepared/a")


def test_a_file_that_is_not_there_cannot_be_read(storage: Storage) -> None:
    assert not storage.exists("raw/a")
    assert storage.files("raw") == []
    assert storage.folders("raw") == []
    with pytest.raises(FileNotFoundError):
        storage.read("raw/a")


def test_folders_travel_to_and_from_local_ones(storage: Storage, source: Path, tmp_path: Path) -> None:
    storage.upload(source, "raw/a")
    storage.download("raw/a", tmp_path / "back")
    assert (tmp_path / "back/below/3.bin").read_bytes() == (source / "below/3.bin").read_bytes()
    with storage.as_local("raw/a") as folder:
        assert folder == Path(storage.path("raw/a"))


@pytest.mark.parametrize("name", ["with space", "ünïcode", "per%20cent", "q?m=1#x"])
def test_any_local_path_can_be_a_storage(tmp_path: Path, name: str) -> None:
    storage = Storage(str(tmp_path / name))
    storage.check_writable()
    storage.write("raw/a", b"x")
    assert (tmp_path / name / "raw/a").read_bytes() == b"x"
    storage.write(f"raw/{name}/file {name}", b"0123456789")
    assert visible(storage, f"raw/{name}") == [f"/file {name}"]
    with storage.open(storage.files(f"raw/{name}")[0].path) as file:
        assert (file.read_at(3, 4), file.size()) == (b"456", 10)


def test_more_than_a_thousand_files_are_listed(storage: Storage) -> None:
    storage.filesystem.create_dir(storage.path("raw"), recursive=True)
    for number in range(1100):
        Path(storage.path(f"raw/{number:04}")).touch()
    assert visible(storage, "raw") == [f"/{number:04}" for number in range(1100)]


def test_a_tilde_and_a_file_uri_are_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Storage("~/ring").path("raw") == f"{tmp_path}/ring/raw"
    assert Storage(f"file://{tmp_path}/ring/").path("raw") == f"{tmp_path}/ring/raw"


def test_checking_leaves_nothing_behind(storage: Storage) -> None:
    storage.check_writable()
    assert names_in(storage.path("")) == []


def test_a_storage_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for uri in (str(tmp_path / "file" / "ring"), "/proc/ring"):
        with pytest.raises(StorageError) as caught:
            Storage(uri).check_writable()
        assert f"storage '{uri}' cannot be written" in str(caught.value)
        assert "storage=PATH_OR_URI" in str(caught.value)


def test_an_unknown_kind_of_storage_is_refused() -> None:
    with pytest.raises(
        StorageError,
        match="storage 'ftp://x/y': kind 'ftp' is unknown; give a path, s3://, hdfs://, webhdfs:// or memory://",
    ):
        Storage("ftp://x/y").check_writable()


def test_it_pickles_as_its_uri_alone(storage: Storage) -> None:
    storage.check_writable()  # so that the filesystem is built
    state: Any = storage.__reduce_ex__(2)
    assert state[2] == {"uri": storage.uri}
    copy = pickle.loads(pickle.dumps(storage))
    assert copy == storage
    copy.check_writable()


def test_what_a_dead_writer_left_is_discarded_and_nothing_else(storage: Storage, source: Path) -> None:
    storage.publish(source, "checkpoints/run/step-1", {})
    storage.upload(source, storage.stage("checkpoints/run/step-2"))
    storage.write("checkpoints/run/tensorboard/events", b"kept")
    storage.discard_staged("checkpoints/run")
    assert sorted(names_in(storage.path("checkpoints/run"))) == ["step-1", "tensorboard"]
    assert_whole(storage, "checkpoints/run/step-1")
    storage.discard_staged("checkpoints/no such run")


def test_a_relative_path_means_the_same_in_a_process_of_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(Storage("data"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert pickle.loads(pickled).path("x") == str(tmp_path / "data" / "x")


def published(storage: Storage, folder: str) -> dict[str, bytes]:
    """The files of a published folder, each checked against its checksum."""
    found = {name: storage.read(f"{folder}/{name}") for name in storage.manifest(folder)["files"]}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == storage.manifest(folder)[
        "files"
    ]
    return found


@pytest.mark.services
def test_a_folder_is_published_to_s3_whole(s3: S3Server, source: Path, tmp_path: Path) -> None:
    storage = s3.storage("published")
    storage.check_writable()
    storage.publish(source, "prepared/a", {"rows": 3})
    assert storage.folders("prepared") == ["a"]
    assert published(storage, "prepared/a")["below/3.bin"] == (source / "below/3.bin").read_bytes()
    with storage.as_local("prepared/a") as folder:
        assert (folder / "below/3.bin").read_bytes() == (source / "below/3.bin").read_bytes()
    storage.remove("prepared/a")
    assert storage.folders("prepared") == []
    assert storage.files("prepared/a") == []
    storage.publish(source, "prepared/a", {})
    assert len(published(storage, "prepared/a")) == NUM_FILES


@pytest.mark.services
def test_a_half_filled_folder_on_s3_is_not_seen_and_begins_empty_the_next_time(s3: S3Server) -> None:
    storage = s3.storage("half-filled")
    storage.write(f"{storage.stage('prepared/a')}/part-0", b"half")
    assert storage.folders("prepared") == []
    staged = storage.stage("prepared/a")
    storage.write(f"{staged}/part-1", b"whole")
    storage.commit(staged, "prepared/a", {})
    assert storage.folders("prepared") == ["a"]
    assert visible(storage, "prepared") == ["/a/manifest.json", "/a/part-1"]


@pytest.mark.services
def test_what_a_dead_writer_left_on_s3_is_discarded_and_nothing_else(s3: S3Server, source: Path) -> None:
    storage = s3.storage("discarded")
    storage.publish(source, "checkpoints/run/step-1", {})
    storage.upload(source, storage.stage("checkpoints/run/step-2"))
    storage.write("checkpoints/run/tensorboard/events", b"kept")
    storage.discard_staged("checkpoints/run")
    assert storage.files("checkpoints/run/step-2") == []
    assert storage.read("checkpoints/run/tensorboard/events") == b"kept"
    assert len(published(storage, "checkpoints/run/step-1")) == NUM_FILES
    storage.discard_staged("checkpoints/no such run")


def test_a_copy_appears_whole_with_its_own_manifest_and_stays_as_it_is(storage: Storage, source: Path) -> None:
    storage.publish(source, "steps/a", {"step": 1})
    staged = storage.stage("steps/hidden")
    storage.write(f"{staged}/.metadata", b"of torch")
    storage.commit(staged, "steps/hidden", {})
    storage.copy("steps/a", "other/b", {**storage.manifest("steps/a"), "step": 2})
    assert (storage.manifest("other/b")["step"], storage.manifest("steps/a")["step"]) == (2, 1)
    assert_whole(storage, "other/b")
    storage.copy("steps/hidden", "other/c", {})
    assert storage.read("other/c/.metadata") == b"of torch"
    storage.copy("steps/a", "other/b", {"step": 3})
    assert storage.manifest("other/b")["step"] == 2
    assert sorted(names_in(storage.path("other"))) == ["b", "c"]


@pytest.mark.services
def test_a_copy_on_s3_is_seen_when_its_manifest_is_written(s3: S3Server, source: Path) -> None:
    storage = s3.storage("copies")
    storage.publish(source, "steps/a", {"step": 1})
    storage.copy("steps/a", "other/b", {"step": 2})
    assert storage.folders("other") == ["b"]
    assert storage.manifest("other/b") == {"step": 2}
    assert len(visible(storage, "other/b")) == NUM_FILES + 1
