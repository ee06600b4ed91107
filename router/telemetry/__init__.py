"""Traces of requests for a collector of OpenTelemetry: the extra `otel`, and nothing of it is loaded without.

Stands on records. Begin with `spans`: what a record says as spans. `tracing` makes the ids when a request begins, since
the engine gets them too, and sends the spans of those that have ended from a thread of its own.

::

    traceparent  PURE: the header of W3C that ties spans together -> nothing
    spans        PURE: a request and its parts, as spans          -> traceparent
    tracing      the door to OpenTelemetry                        -> traceparent spans
"""
