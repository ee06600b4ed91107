"""PURE: how a stream of the engine ends when its time is up: as one that has reached its token limit.

An agent that gets an error starts again, and one that gets a stream without an end takes it for complete. With
`finish_reason` "length" it knows that the answer was cut, and goes on from there. `gateway` calls this for the paths
that generate; the events are those of llama-server (b11434).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from router.wire.child_json import object_or_empty, parse_json

_KEPT = ("id", "object", "created", "model", "system_fingerprint")  # the same in all events of a stream


def cut_of(path: str) -> Callable[[bytes], bytes] | None:
    """What makes the last events of a stream of this path from its beginning; None for other paths."""
    match path:
        case "/v1/chat/completions" | "/chat/completions":
            return partial(_last_events, {"delta": {}}, "chat.completion.chunk")
        case "/v1/completions":
            return partial(_last_events, {"text": "", "logprobs": None}, "text_completion")
        case "/completion" | "/completions" | "/infill":
            return _last_native_event
    return None


def _last_events(choice: dict[str, Any], kind: str, beginning: bytes) -> bytes:
    first = _first_event(beginning)
    fields = {"object": kind, **{name: first[name] for name in _KEPT if name in first}}
    choices = [{"index": 0, "finish_reason": "length", **choice}]
    return _event({**fields, "choices": choices}) + b"data: [DONE]\n\n"


def _last_native_event(beginning: bytes) -> bytes:
    return _event({"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": "limit", "truncated": False})


def _first_event(beginning: bytes) -> dict[str, Any]:
    """The first event that is an object; empty if there is none."""
    for line in beginning.split(b"\n"):
        if line.startswith(b"data: {"):
            try:
                return object_or_empty(parse_json(line[6:]))
            except ValueError:
                return {}
    return {}


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"
