"""A real HDFS for tests marked `services`: Hadoop's NameNode and DataNode on this machine's Java."""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import hdfs_native
import pytest

from cluster.processes import dying_with_parent
from cluster.storage import Storage
from tests.hadoop import jars, web_jars
from tests.ports import kept_ports

HOST = "127.0.0.1"
USER = "tester"
SUPERUSER = "hdfs"
START_TIMEOUT_S = 300
NAME_NODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
DATA_NODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"
ADMIN = "org.apache.hadoop.hdfs.tools.DFSAdmin"
PACKAGES = ("java.lang", "java.lang.reflect", "java.nio", "sun.nio.ch", "java.io", "java.util", "java.net")
JAVA_OPTIONS = (
    *("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"),
    # Written for Java 8: it looks into what later ones keep to themselves.
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in PACKAGES),
    *("--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",),
    *("--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED",),
)
LOGGING = """log4j.rootLogger=WARN, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %c: %m%n
"""


@dataclass
class HdfsServer:
    """A NameNode and a DataNode, each of which can be killed and started again with what it has stored."""

    folder: Path
    port: int
    web_port: int
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def storage(self, name: str, kind: str = "hdfs") -> Storage:
        """A storage of its own for a test, `hdfs` or `webhdfs`."""
        if kind == "webhdfs" and not web_jars():
            pytest.skip("WebHDFS needs Jersey 1, which cannot be had here: apt-get update, on Debian")
        port = {"hdfs": self.port, "webhdfs": self.web_port}[kind]
        return Storage(f"{kind}://{HOST}:{port}/ring/{kind}-{name}")

    def limit(self, storage: Storage, num_bytes: int) -> None:
        """Let a storage hold so many bytes and no more, counted by whole blocks."""
        storage.filesystem.create_dir(storage.path(""), recursive=True)
        command = java(ADMIN, self.folder, "-setSpaceQuota", str(num_bytes), storage.path(""))
        subprocess.run(command, env={**os.environ, "HADOOP_USER_NAME": SUPERUSER}, check=True, capture_output=True)

    def start(self, program: str, after_s: float = 0.0) -> None:
        """Start the NameNode or the DataNode, now or so much later; returns at once."""
        later = ["sh", "-c", 'sleep "$0" && exec "$@"', str(after_s)]  # a thread's processes would die with it
        with (self.folder / f"{program.rpartition('.')[2]}.log").open("a") as log:
            self.processes[program] = subprocess.Popen(
                [*later, *java(program, self.folder)],
                cwd=self.folder,
                env={**os.environ, "HADOOP_USER_NAME": SUPERUSER},
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=dying_with_parent(),
            )

    def kill(self, program: str) -> None:
        """End it as `kill -9` does."""
        process = self.processes.pop(program)
        process.kill()
        process.wait()

    def wait_until_ready(self) -> None:
        """Return when files can be written: the NameNode is out of safe mode and knows its DataNode."""
        ends = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            ended = any(process.poll() is not None for process in self.processes.values())
            if ended or time.monotonic() > ends:
                logs = "\n".join(log.read_text()[-3000:] for log in sorted(self.folder.glob("*.log")))
                raise RuntimeError(f"HDFS does not start (it is known to on Java 17):\n{logs}")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        state = f"http://{HOST}:{self.web_port}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
        try:
            with urllib.request.urlopen(state, timeout=5) as answer:
                (found,) = json.load(answer)["beans"]
        except (OSError, ValueError):
            return False
        return bool(found["FSState"] == "Operational" and found["NumLiveDataNodes"])


def java(program: str, folder: Path, *arguments: str) -> list[str]:
    """The command that runs one of Hadoop's programs with the settings in a folder."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if found is None:
        pytest.skip("HDFS needs Java, which is not installed here: apt-get install openjdk-17-jre-headless")
    classes = [f"{folder}/conf", f"{folder}/web", *(f"{found_in}/*" for found_in in (web_jars(), jars()) if found_in)]
    scratch = f"-Djava.io.tmpdir={folder}"
    return [found, *JAVA_OPTIONS, scratch, "-cp", ":".join(classes), program, *arguments]


@pytest.fixture(scope="session")
def hdfs() -> Iterator[HdfsServer]:
    """One HDFS for the whole run. Its user is in the environment of this process and of those it starts."""
    with (
        TemporaryDirectory(prefix="hdfs-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("HADOOP_USER_NAME", USER)
        with started(Path(folder)) as server:
            yield server


@contextmanager
def started(folder: Path) -> Iterator[HdfsServer]:
    """Start both servers with their data in a folder, and end them."""
    server = HdfsServer(folder, *kept_ports(2))
    configure(server)
    format_name_node(folder)
    try:
        server.start(NAME_NODE)
        server.start(DATA_NODE)
        server.wait_until_ready()
        give_folder(server)
        yield server
    finally:
        for program in list(server.processes):
            server.kill(program)


def configure(server: HdfsServer) -> None:
    """Write the settings of both servers below the server's folder."""
    data, transfer, transfer_ipc = kept_ports(3)
    core = {"fs.defaultFS": f"hdfs://{HOST}:{server.port}", "hadoop.tmp.dir": server.folder / "data"}
    hdfs = {
        "dfs.replication": 1,
        "dfs.heartbeat.interval": 1,
        "dfs.namenode.rpc-address": f"{HOST}:{server.port}",
        "dfs.namenode.http-address": f"{HOST}:{server.web_port}",
        "dfs.namenode.safemode.extension": 0,
        "dfs.namenode.datanode.registration.ip-hostname-check": "false",
        "dfs.datanode.hostname": HOST,
        "dfs.datanode.address": f"{HOST}:{transfer}",
        "dfs.datanode.ipc.address": f"{HOST}:{transfer_ipc}",
        "dfs.datanode.http.address": f"{HOST}:{data}",
        "dfs.webhdfs.enabled": "true" if web_jars() else "false",
    }
    conf = server.folder / "conf"
    conf.mkdir()
    for name, settings in (("core-site.xml", core), ("hdfs-site.xml", hdfs)):
        shown = (f"<property><name>{key}</name><value>{value}</value></property>" for key, value in settings.items())
        (conf / name).write_text(f"<configuration>{''.join(shown)}</configuration>")
    (conf / "log4j.properties").write_text(LOGGING)
    for name in ("hdfs", "datanode", "static"):  # its web pages, which the jars lack and the servers insist on
        (server.folder / "web" / "webapps" / name).mkdir(parents=True)


def format_name_node(folder: Path) -> None:
    """Give the NameNode an empty file system."""
    command = java(NAME_NODE, folder, "-format", "-nonInteractive")
    user = {**os.environ, "HADOOP_USER_NAME": SUPERUSER}
    done = subprocess.run(command, cwd=folder, env=user, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"HDFS cannot be formatted (it is known to on Java 17):\n{done.stdout}")


def give_folder(server: HdfsServer) -> None:
    """Make the folder in which the tests' user may write."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HADOOP_USER_NAME", SUPERUSER)
        client = hdfs_native.Client(f"hdfs://{HOST}:{server.port}")
        client.mkdirs("/ring")
        client.set_owner("/ring", USER)
