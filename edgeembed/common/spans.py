"""Traces of requests: the W3C header `traceparent`, which is passed on, and spans for OpenTelemetry by choice.

Without the setting `traces`, a request has no span, and what it causes at other servers belongs to the client's own span.
Reference: "Trace Context" (W3C), and OpenTelemetry's semantic conventions for HTTP spans.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from edgeembed import __version__
from edgeembed.common.logs import request_scope
from edgeembed.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

HEADER = "traceparent"
EXPORT_SECONDS = 3.0
"""What sending spans may take, all tries together. The end of the daemon waits for it; the SDK's own default is 10."""
_VALID = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

Attributes = Mapping[str, str | int | float]


def valid(header: str | None) -> str | None:
    """Return a header that has the form of a traceparent, else None."""
    return header if header and _VALID.fullmatch(header) else None


def traceparent() -> str | None:
    """Return the header for requests to other servers that the current request causes, if it belongs to a trace."""
    scope = request_scope()
    if scope is None:
        return None
    return scope.traceparent if scope.span is None else scope.span.traceparent


def stage(name: str, **attributes: str | int | float) -> AbstractContextManager[None]:
    """Return a context whose time becomes a span within that of the current request, if it has one."""
    scope = request_scope()
    if scope is None or scope.span is None:
        return _NO_SPAN
    return scope.span.stage(name, {f"edgeembed.{key}": value for key, value in attributes.items()})


_NO_SPAN: AbstractContextManager[None] = nullcontext()


class RequestSpan:
    """The span of a request, from its head until its response is ready."""

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span

    @property
    def traceparent(self) -> str:
        """The header that makes another server's span a part of this one."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    @contextmanager
    def stage(self, name: str, attributes: Attributes) -> Iterator[None]:
        """Measure a part of the request as a span within this one."""
        part = self._tracing.start(name, attributes, within=self._span)
        try:
            yield
        except BaseException as error:
            part.set_attribute("error.type", type(error).__qualname__)  # its message may quote a text
            raise
        finally:
            part.end()

    def end(self, status: int, attributes: Attributes) -> None:
        """End the span with the HTTP status of the response."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes({"http.response.status_code": status, **attributes})
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
            self._span.set_attribute("error.type", str(status))
        self._span.end()


class Tracing:
    """Spans, sent by OpenTelemetry's SDK to the collector that its own variables (OTEL_EXPORTER_OTLP_ENDPOINT, …) name."""

    def __init__(self) -> None:
        """Start the thread that sends spans. Raises ConfigError if the extra is not installed."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            from edgeembed.common.installation import find_installation

            raise ConfigError(f"traces needs OpenTelemetry: {find_installation().add('otel')}") from error
        facts = {"service.version": __version__}
        if "OTEL_SERVICE_NAME" not in os.environ:
            facts["service.name"] = "edgeembed"
        timeout = None if "OTEL_EXPORTER_OTLP_TIMEOUT" in os.environ else EXPORT_SECONDS
        self._provider = TracerProvider(resource=Resource.create(facts), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
        self._tracer = self._provider.get_tracer("edgeembed", __version__)

    def begin(self, method: str, route: str | None, header: str | None) -> RequestSpan:
        """Begin the span of a request. route: without what the client wrote. header: the client's traceparent, if valid."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({HEADER: header} if header else {})
        attributes = {"http.request.method": method} | ({"http.route": route} if route else {})
        name = f"{method} {route}" if route else method
        return RequestSpan(self, self._tracer.start_span(name, parent, SpanKind.SERVER, attributes))

    def start(self, name: str, attributes: Attributes, within: Span) -> Span:
        """Start a span within another one."""
        from opentelemetry.trace import set_span_in_context

        return self._tracer.start_span(name, set_span_in_context(within), attributes=attributes)

    def close(self) -> None:
        """Send the last spans; call it in a thread."""
        self._provider.shutdown()
