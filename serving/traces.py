"""Traces: OpenTelemetry spans from an HTTP request to the model, where the spec names a collector.

A span `POST /predict` goes on from the client's `traceparent`; below it lies `model`, which is linked to the spans of
all requests that were answered in that batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind

from cluster.errors import SpecError

_TRACER = trace.get_tracer("rayline")
_is_on = False
"""Whether spans go anywhere; making one costs a request 20 us nonetheless."""


def send_to(collector: str, application: str) -> None:
    """Send this process's spans to a collector that takes OTLP over HTTP, such as http://collector:4318.

    Raises:
        SpecError: the package for it is not installed.
    """
    try:
        # only those who trace need it
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise SpecError(f"serving.traces='{collector}' needs {error.name}: pip install '.[traces]'") from None
    global _is_on
    _is_on = True
    provider = TracerProvider(resource=Resource.create({"service.name": application}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{collector.rstrip('/')}/v1/traces")))
    trace.set_tracer_provider(provider)


@contextmanager
def request_span(method: str, path: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """The span of a request, which goes on from the one that its headers name."""
    if not _is_on:
        yield trace.INVALID_SPAN
        return
    attributes = {"http.request.method": method, "url.path": path}
    with _TRACER.start_as_current_span(
        f"{method} {path}", context=extract(headers), kind=SpanKind.SERVER, attributes=attributes
    ) as span:
        yield span


def current() -> SpanContext:
    """Of the request that is being answered."""
    return trace.get_current_span().get_span_context()


@contextmanager
def model_span(requests: Sequence[SpanContext], attributes: Mapping[str, Any]) -> Iterator[None]:
    """The span of a batch: below that of its first request, and linked to all."""
    if not _is_on:
        yield
        return
    parent = trace.set_span_in_context(trace.NonRecordingSpan(requests[0]))
    links = [Link(context) for context in requests]
    with _TRACER.start_as_current_span("model", context=parent, links=links, attributes=dict(attributes)):
        yield
