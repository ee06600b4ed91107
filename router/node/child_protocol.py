"""PURE: the protocol between a router and its children, which is llama-server's own (tools/server/server-models.cpp).

A child writes its states as lines of JSON that begin with `STATE_PREFIX`; the router writes `EXIT` to its stdin.
`process` reads the lines. A child may be broken or hostile: what does not make sense is a line of the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.node.interface import LoadProgress, Slept
from router.wire.child_json import object_or_empty, parse_json, printable

STATE_PREFIX = b"cmd_child_to_router:state:"
EXIT = b"cmd_router_to_child:exit\n"
MAX_PROGRESS_BYTES = 1 << 13  # each listener of the events would get a longer one, again and again
MAX_CONTEXT = 1 << 40  # tokens


@dataclass(frozen=True, slots=True)
class Ready:
    """The child serves, for the first time or after it slept. `info` is what it says of its model."""

    info: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OtherState:
    """A state that the router has no use for."""


State = LoadProgress | Slept | Ready | OtherState


def read_state(text: bytes) -> State | None:
    """What a state line says, without its prefix. None if it is not a state."""
    try:
        message = parse_json(text)
    except ValueError:
        return None
    match message:
        case {"state": "loading" | "downloading"} if len(text) > MAX_PROGRESS_BYTES:
            return None
        case {
            "state": "loading",
            "payload": {"stages": [*stages], "current": stage, "value": float() | int() as value},
        }:
            done = stages.index(stage) if stage in stages else 0
            part = min(1.0, max(0.0, value))
            return LoadProgress(printable(stage, 80), (done + part) / max(1, len(stages)), message["payload"])
        case {"state": "downloading", "payload": {"downloaded": int(done), "total": int(total)}}:
            part = min(max(0, done), total) / total if total > 0 else 0.0
            return LoadProgress("download", part, message["payload"])
        case {"state": "sleeping"}:
            return Slept()
        case {"state": "ready", "payload": info}:
            return Ready(model_info(info))
        case {"state": str()}:
            return OtherState()
    return None


def model_info(reported: Any) -> Mapping[str, Any]:
    """What a child says of its model, without what makes no sense: callers rely on the shape."""
    info = dict(object_or_empty(reported))
    meta = dict(object_or_empty(info.pop("meta", None)))
    context = meta.get("n_ctx")
    if "n_ctx" in meta and not (type(context) is int and 0 < context < MAX_CONTEXT):
        del meta["n_ctx"]
    return {**info, "meta": meta} if meta else info
