"""Spans of a real exporter, read by a server that takes OTLP as a collector does."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio, sys
from opentelemetry import trace
from serving.batcher import Batcher
from serving.traces import request_span, send_to

send_to(sys.argv[1], "loans")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

async def main():
    batcher = Batcher(lambda rows: rows, 8)
    async def request(headers):
        with request_span("POST", "/predict", headers):
            await batcher.ask([1, 2])
    await asyncio.gather(request({"traceparent": PARENT}), request({}), request({}))

asyncio.run(main())
trace.get_tracer_provider().force_flush()  # a shutdown waits for 30 s at most, and leaves what is not sent by then
trace.get_tracer_provider().shutdown()
"""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    spans: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = ExportTraceServiceRequest()
            message.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
            for resource in message.resource_spans:
                names = {one.key: one.value.string_value for one in resource.resource.attributes}
                assert names["service.name"] == "loans"
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *given: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    server.server_close()


def test_spans_go_from_the_clients_to_the_model(collector: tuple[str, list[Any]]) -> None:
    """In a process of its own: a process has one provider, for good."""
    address, spans = collector
    patient = {**os.environ, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "120"}  # what is sent again arrives twice
    subprocess.run([sys.executable, "-c", PROGRAM, address], cwd=ROOT, check=True, timeout=300, env=patient)
    requests = [span for span in spans if span.name == "POST /predict"]
    batches = [span for span in spans if span.name == "model"]
    assert len(requests) == 3
    [from_client] = [span for span in requests if span.parent_span_id]
    assert from_client.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert from_client.parent_span_id.hex() == "b7ad6b7169203331"
    by_id = {span.span_id: span for span in requests}
    assert sorted(link.span_id for batch in batches for link in batch.links) == sorted(by_id)
    for batch in batches:
        assert batch.trace_id == by_id[batch.parent_span_id].trace_id
        (rows,) = (one.value.int_value for one in batch.attributes if one.key == "rayline.rows")
        assert rows == 2 * len(batch.links)


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None\n"
        "from serving.traces import send_to; send_to('http://collector:4318', 'loans')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "serving.traces='http://collector:4318' needs opentelemetry." in done.stderr
    assert "pip install '.[traces]'" in done.stderr
