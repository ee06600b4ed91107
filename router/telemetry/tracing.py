"""The door to OpenTelemetry: which requests are traced, and a thread that sends their spans to a collector.

The one idea: the requests never wait for the collector. A request that has ended is put into a bounded queue; a thread
makes spans of it and sends them. If the collector is dead or slow, spans are lost, which the log says once.

Besides `--otel-endpoint` the usual variables hold: OTEL_EXPORTER_OTLP_* (endpoint, headers, certificates, compression,
timeout), OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_SDK_DISABLED. `serve` calls `start`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Mapping
from random import getrandbits
from typing import Any

from router import __version__
from router.errors import ConfigError
from router.records.record import Record
from router.redaction import without_credentials
from router.telemetry.spans import Request, Span, request_of
from router.telemetry.traceparent import SAMPLED, TraceParent, joined, parse

log = logging.getLogger("router.telemetry")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PATH = "/v1/traces"
MAX_WAITING = 2_048  # requests
MAX_SENT_AT_ONCE = 256  # requests
EVERY_S = 1.0
CLOSE_S = 2.0  # for the last spans, when the router ends
MISSING = "traces need OpenTelemetry, which is not installed: pip install llama-router[otel]"
# What these log themselves would be a line for each attempt.
_NOISY = ("opentelemetry", "urllib3", "requests")


def start(endpoint: str | None, environ: Mapping[str, str]) -> Tracing | None:
    """None if nobody has named a collector. Raises ConfigError without the extra, if a flag named one."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if endpoint is None:
        if not any(environ.get(name) for name in ENDPOINTS) or environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
            return None
        try:
            return Tracing(None)
        except ImportError:  # the variables may be those of a whole machine, and meant for others
            log.warning("%s", MISSING)
            return None
    try:
        return Tracing(endpoint)
    except ImportError as exc:
        raise ConfigError(f"--otel-endpoint: {MISSING}") from exc


class Tracing:
    """`endpoint` is the collector's URL, with or without the path; None: as the variables say.

    ::

        gateway.records.tracer = tracing.begin   # the ids of each request
        gateway.records.subscribe(tracing.end)
        ...
        tracing.close()
    """

    def __init__(self, endpoint: str | None) -> None:
        """Raises ImportError without the extra."""
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        self._api = trace
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        url = endpoint and (endpoint if endpoint.rstrip("/").endswith(PATH) else endpoint.rstrip("/") + PATH)
        self._exporter = OTLPSpanExporter(endpoint=url)
        self._resource = Resource({"service.version": __version__}).merge(Resource.create())
        if str(self._resource.attributes.get("service.name", "")).startswith("unknown_service"):  # no variable names it
            self._resource = self._resource.merge(Resource({"service.name": "llama-router"}))
        self._sampler = TracerProvider(resource=self._resource, shutdown_on_exit=False).sampler
        self._where = without_credentials(url or self._exporter._endpoint)
        self._waiting: deque[Record] = deque()
        self._lost = 0
        self._has_warned = False
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()
        log.info("traces of requests go to %s", self._where)

    def __repr__(self) -> str:
        return f"<Tracing to {self._where}: {len(self._waiting)} waiting, {self._lost} lost>"

    def begin(self, came: str) -> str:
        """A request begins, with this `traceparent`. Returns what its record is to keep (see `traceparent`)."""
        parent = parse(came)
        trace = parent.trace if parent else getrandbits(128) or 1
        own = TraceParent(trace, getrandbits(64) or 1, self._flags(parent, trace))
        return joined(came, own)

    def end(self, record: Record) -> None:
        """A request has ended."""
        if len(self._waiting) >= MAX_WAITING:
            self._lost += 1
        else:
            self._waiting.append(record)

    def close(self) -> None:
        """Send what is left, if the collector takes it in time."""
        self._is_closing.set()
        self._thread.join(CLOSE_S)
        with contextlib.suppress(Exception):
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _flags(self, parent: TraceParent | None, trace: int) -> int:
        """The client's wish counts, unless a sampler was chosen that overrules it."""
        api = self._api
        context = None
        if parent is not None:
            flags = api.TraceFlags(parent.flags)
            above = api.SpanContext(parent.trace, parent.span, is_remote=True, trace_flags=flags)
            context = api.set_span_in_context(api.NonRecordingSpan(above))
        decision = self._sampler.should_sample(context, trace, "request").decision
        return SAMPLED if decision.is_sampled() else 0  # type: ignore[no-untyped-call]

    # The thread

    def _run(self) -> None:
        while not self._is_closing.wait(EVERY_S):
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while self._waiting:
            count = min(len(self._waiting), MAX_SENT_AT_ONCE)
            self._send([self._waiting.popleft() for _ in range(count)])

    def _send(self, records: list[Record]) -> None:
        try:
            spans = [span for record in records if (found := request_of(record)) for span in self._spans_of(found)]
            has_gone = not spans or self._exporter.export(spans).name == "SUCCESS"
        except Exception as exc:
            log.debug("traces cannot be sent", exc_info=exc)
            has_gone = False
        if not has_gone:
            self._lost += len(records)
        if self._lost and not self._has_warned:
            self._has_warned = True
            why = "it takes them too slowly" if has_gone else "they cannot be sent"
            log.warning("traces are lost on their way to %s: %s; no more is said until they arrive", self._where, why)
        elif has_gone and self._has_warned and len(self._waiting) < MAX_WAITING // 2:
            log.warning("traces arrive at %s again; those of %d requests were lost", self._where, self._lost)
            self._has_warned, self._lost = False, 0

    def _spans_of(self, request: Request) -> list[Any]:
        """The spans as the exporter takes them."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        api, scope = self._api, InstrumentationScope("router", __version__)

        def context(trace: TraceParent, *, is_remote: bool = False) -> Any:
            return api.SpanContext(trace.trace, trace.span, is_remote, api.TraceFlags(trace.flags))

        def made(span: Span, own: Any, parent: Any, **more: Any) -> ReadableSpan:
            return ReadableSpan(
                span.name,
                own,
                parent,
                self._resource,
                dict(span.attributes),
                instrumentation_scope=scope,
                start_time=int(span.begin * 1e9),
                end_time=int(span.end * 1e9),
                **more,
            )

        own = context(request.own)
        status = api.Status(api.StatusCode.ERROR, request.error) if request.error else api.Status()
        parent = context(request.parent, is_remote=True) if request.parent else None
        found = [made(request.whole, own, parent, kind=api.SpanKind.SERVER, status=status)]
        for part in request.parts:
            ids = TraceParent(request.own.trace, getrandbits(64) or 1, request.own.flags)
            found.append(made(part, context(ids), own))
        return found
