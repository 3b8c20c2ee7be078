"""What is said of a full disk, a used-up quota and what else a person has to mend."""

import errno
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import StorageError
from cluster.storage import Storage
from cluster.storage_faults import fault
from tests.cluster.test_storage import names_in, start, visible

LIMIT_BYTES = 1_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and leave to mount")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_told_and_what_is_there_stays(small_disk: Path) -> None:
    storage = Storage(str(small_disk))
    storage.write("plans/best", b"a" * 1000)
    with pytest.raises(StorageError, match=r"there is no space left on its disk\. Free some, .*storage=PATH_OR_URI"):
        storage.write("plans/best", b"b" * 2 * LIMIT_BYTES)
    assert storage.read("plans/best") == b"a" * 1000
    assert visible(storage, "plans") == ["/best"]
    assert names_in(storage.path("plans")) == ["best"]
    storage.write("plans/other", b"c" * 500_000)


def test_a_limit_on_files_is_told(tmp_path: Path) -> None:
    limit = f"import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT_BYTES}, {LIMIT_BYTES}))\n"
    write = f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN); storage.write('a', b'x' * {2 * LIMIT_BYTES})"
    child = start(limit + write, tmp_path)
    _, errors = child.communicate()
    assert "the file would be larger than the limit on files here. Free some" in errors.decode()
    assert "StorageError" in errors.decode()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != LIMIT_BYTES


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "its disk quota is used up"),
        (OSError("DSQuotaExceededException: The DiskSpace quota of /ring is exceeded"), "its quota is used up"),
        (OSError("a DataNode kept 0 of 2,000 bytes"), "its quota is used up or its disks are full (a DataNode kept 0"),
        (FileNotFoundError(errno.ENOENT, "raw/a"), None),
        (OSError("AWS Error NETWORK_CONNECTION during HeadObject"), None),
    ],
)
def test_only_what_a_person_can_mend_is_explained(error: OSError, told: str | None) -> None:
    said = fault(error)
    assert (said is None) if told is None else (said is not None and told in said)
