"""PURE: a request that has ended as spans: one for the whole, and one for each part of its time.

    request     |--------------------------------------------|
      wait      |-----|                                         for memory, for others, in the queue
      load            |--------------|                          of its own model
      prompt                         |-------|                  until the first byte of content
      generate                               |---------------|

Attributes have the names of OpenTelemetry's semantic conventions (HTTP, GenAI), where these have one. Nothing of what
was said is among them, and no key. `tracing` sends them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.records.record import Record
from router.telemetry.traceparent import TraceParent, parse, split

Value = str | int | float | bool

_OPERATIONS = {"chat": "chat", "messages": "chat", "responses": "chat", "generate": "text_completion"}
_OPERATIONS |= {"completions": "text_completion", "completion": "text_completion", "infill": "text_completion"}
_OPERATIONS |= {"embeddings": "embeddings", "embed": "embeddings", "embedding": "embeddings"}


@dataclass(frozen=True, slots=True)
class Span:
    """`begin` and `end` are in seconds since 1970."""

    name: str
    begin: float
    end: float
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """`own` is the span of the whole, `parent` the client's, if it sent one. `error` is empty if it is none of the
    router's."""

    own: TraceParent
    parent: TraceParent | None
    whole: Span
    parts: tuple[Span, ...]
    error: str


def request_of(record: Record) -> Request | None:
    """None for a request that is not traced, or whose trace nobody wants."""
    came, onward = split(record.trace)
    own = parse(onward)
    if own is None or not own.is_sampled:
        return None
    parent = parse(came)
    whole = Span(record.path or "request", record.at, record.at + record.seconds, _attributes(record))
    return Request(own, parent, whole, tuple(_parts(record)), (record.error or "") if record.status >= 500 else "")


def _parts(record: Record) -> list[Span]:
    end, served = record.at + record.seconds, record.at + record.waited
    loading = max(record.at, served - record.load)
    found = []
    if loading > record.at:
        found.append(Span("wait", record.at, loading))
    if record.load:
        found.append(Span("load", loading, served))
    if record.ttft is not None:
        # An answer that came whole says by its counts alone how long its text took.
        first = record.at + record.ttft if record.stream else end - record.generation_seconds
        first = min(max(first, served), end)
        if first > served:
            found.append(Span("prompt", served, first, _with("gen_ai.usage.input_tokens", record.prompt)))
        if end > first:
            found.append(Span("generate", first, end, _with("gen_ai.usage.output_tokens", record.generated)))
    return found


def _attributes(record: Record) -> dict[str, Value]:
    operation = "chat" if "/chat/" in record.path else _OPERATIONS.get(record.path.rpartition("/")[2])
    known: dict[str, Value | None] = {
        "http.response.status_code": record.status,
        "url.path": record.path,
        "client.address": record.client or None,
        "user_agent.original": record.agent or None,
        "error.type": record.error,
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "llama.cpp",
        "gen_ai.request.model": record.model or record.asked or None,
        "gen_ai.usage.input_tokens": record.prompt,
        "gen_ai.usage.output_tokens": record.generated,
        "llama_router.request_id": record.id,
        "llama_router.dialect": record.dialect or None,
        "llama_router.phase": record.phase,
        "llama_router.cached_tokens": record.cached,
        "llama_router.tokens_per_second": record.tokens_per_second,
        "llama_router.background": record.background or None,
    }
    return {name: value for name, value in known.items() if value is not None}


def _with(name: str, value: int | None) -> dict[str, Value]:
    return {} if value is None else {name: value}
