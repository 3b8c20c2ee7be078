"""HTTPS before a server that speaks HTTP alone, with a certificate made for the test."""

import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ray.serve._private.constants import (
    SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER,
    SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER,
)

from cluster.errors import ClusterError
from jobs.spec import TlsSpec
from serving.edge import edge
from tests.ports import kept_ports


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """HAProxy may take as long to start as it does."""
    monkeypatch.setattr("serving.edge.UP_WITHIN_S", 120)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def behind() -> Iterator[int]:
    """The port of a server that says how it was asked."""

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["content-length"]))
            body = sent + b" by " + self.headers["x-forwarded-proto"].encode()
            body += b"".join(b" with " + name.encode() for name in self.headers if name.lower().startswith("x-request"))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def tls_at(certificate: Path) -> TlsSpec:
    return TlsSpec(certificate=str(certificate), port=kept_ports(1)[0], host="127.0.0.1")


def test_clients_speak_https_and_the_application_hears_http(certificate: Path, behind: int) -> None:
    tls = tls_at(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with edge(tls, behind, 60):
        request = urllib.request.Request(f"https://localhost:{tls.port}/predict", b"asked")
        with urllib.request.urlopen(request, context=trusting, timeout=120) as answer:
            assert answer.read() == b"asked by https"
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(request, timeout=120)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.deprecated_call():
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", tls.port)) as plain, pytest.raises(ssl.SSLError):
            old.wrap_socket(plain)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", tls.port))


def test_headers_that_would_take_serves_deadline_or_its_watch_for_hang_ups_end_here(
    certificate: Path, behind: int
) -> None:
    tls = tls_at(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    heeded = {SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER: "0", SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER: "?1"}
    headers = {**heeded, "X-Request-Id": "mine"}
    with edge(tls, behind, 60):
        request = urllib.request.Request(f"https://localhost:{tls.port}/predict", b"asked", headers)
        with urllib.request.urlopen(request, context=trusting, timeout=120) as answer:
            assert answer.read().lower() == b"asked by https with x-request-id"


def test_a_header_that_never_ends_is_cut_off(certificate: Path, behind: int) -> None:
    tls = tls_at(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with (
        edge(tls, behind, 1),
        socket.create_connection(("localhost", tls.port), timeout=120) as plain,
        trusting.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        assert b"408" in secured.recv(1000)


def test_a_certificate_without_its_key_and_a_taken_port_are_named(
    certificate: Path, behind: int, tmp_path: Path
) -> None:
    half = tmp_path / "half.pem"
    half.write_text(certificate.read_text().partition("-----BEGIN PRIVATE KEY")[0])
    named = r"serving\.tls\.certificate='.*half\.pem' cannot be used: .*[Kk]ey"
    with pytest.raises(ClusterError, match=named), edge(tls_at(half), behind):
        pytest.fail("it has no key")
    tls = TlsSpec(certificate=str(certificate), port=behind, host="127.0.0.1")
    with pytest.raises(ClusterError, match=rf"serving\.tls\.port={behind} cannot be used"), edge(tls, behind):
        pytest.fail("the port is taken")
