"""A real S3 server for tests marked `services`: SeaweedFS, from its PyPI package."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cluster.processes import dying_with_parent
from cluster.storage import Storage
from tests.ports import kept_ports

HOST = "127.0.0.1"
BUCKET = "ring"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "for-tests-only"}
START_TIMEOUT_S = 300
COUNTED_WITHIN_S = 60


@dataclass
class S3Server:
    """A server, which can be killed and started again with what it has stored.

    Its credentials are in the environment of this process and of those it starts.
    """

    folder: Path
    port: int
    metrics_port: int
    options: dict[str, object]
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, after_s: float = 0.0) -> None:
        """Start it, now or so much later; returns at once."""
        program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "weed"
        later = ["sh", "-c", 'sleep "$0" && exec "$@"', str(after_s)]  # a thread's process would die with it
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*later, program, "server", *(f"-{key}={value}" for key, value in self.options.items())],
                cwd=self.folder,
                env={**os.environ, **CREDENTIALS, "GOMEMLIMIT": "256MiB"},
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=dying_with_parent(),
            )

    def kill(self) -> None:
        """End it as `kill -9` does."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def has_ended(self) -> bool:
        """Whether it is not running, which it should."""
        return self.process is None or self.process.poll() is not None

    def storage(self, prefix: str) -> Storage:
        """A storage of its own for a test."""
        return Storage(f"s3://{BUCKET}/{prefix}?scheme=http&region=us-east-1&endpoint_override={HOST}%3A{self.port}")

    def num_reads(self) -> int:
        """How many reads of some bytes of an object it has answered, as it counts them itself."""
        with urllib.request.urlopen(f"http://{HOST}:{self.metrics_port}/metrics") as answer:
            lines = answer.read().decode()
        partial = r'^SeaweedFS_s3_request_total{[^}]*code="206",type="GET"} (\S+)$'
        return sum(int(float(number)) for number in re.findall(partial, lines, re.MULTILINE))

    def wait_for_reads(self, number: int) -> int:
        """The same, once it has counted so many: it may do that a moment after it has answered."""
        ends = time.monotonic() + COUNTED_WITHIN_S
        while (counted := self.num_reads()) < number and time.monotonic() < ends:
            time.sleep(0.05)
        return counted


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One server for the whole run."""
    # Short: sockets lie below it. The server may still write while it ends.
    with TemporaryDirectory(prefix="s3-", ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with started(Path(folder)) as server:
            yield server


@contextmanager
def started(folder: Path) -> Iterator[S3Server]:
    """Start a server that keeps its data in a folder, and end it."""
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc, metrics = kept_ports(9)
    (folder / "data").mkdir()
    options: dict[str, object] = {
        "dir": folder / "data",
        "ip": HOST,
        "ip.bind": HOST,
        "metricsPort": metrics,
        "s3": "true",
        "s3.port": s3,
        "s3.port.grpc": s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": folder / "s3.sock",
        "filer": "true",
        "filer.port": filer,
        "filer.port.grpc": filer_grpc,
        "filer.localSocket": folder / "filer.sock",
        "master.port": master,
        "master.port.grpc": master_grpc,
        "master.volumeSizeLimitMB": 512,
        "master.telemetry": "false",  # it would phone home
        "master.electionTimeout": "1s",
        "master.resumeState": "false",
        "volume.port": volume,
        "volume.port.grpc": volume_grpc,
        "volume.max": 0,
    }
    server = S3Server(folder, s3, metrics, options)
    try:
        server.start()
        wait_until_it_answers(server)
        yield server
    finally:
        server.kill()  # it would take ten seconds to end in order
        for port in (s3_grpc, master_grpc, volume_grpc, filer_grpc):
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()


def wait_until_it_answers(server: S3Server) -> None:
    """It lists buckets seconds before it can read, so wait for what is written to be read back."""
    ends = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            Storage(f"{server.storage('').uri}&allow_bucket_creation=true").filesystem.create_dir(BUCKET)
            return server.storage("").check_writable()
        except Exception as error:
            if server.has_ended() or time.monotonic() > ends:
                log = (server.folder / "log").read_text()[-3000:]
                raise RuntimeError(f"the S3 server does not answer: {error}\n{log}") from error
            time.sleep(0.2)
