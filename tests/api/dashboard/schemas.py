"""The shapes of the data API as JSON schemas, which allow nothing but what `router.api.dashboard` documents."""

from __future__ import annotations

from typing import Any

import jsonschema

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WORD: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": "number", "minimum": 0}
MOMENT: Schema = {"type": "number", "minimum": 1e9}  # since 1970
PART: Schema = {"type": "number", "minimum": 0, "maximum": 1}
ANY: Schema = {}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*words: str) -> Schema:
    return {"enum": list(words)}


def each(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def by_name(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def fields(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


EVENT = fields(
    {
        "seq": {"type": "integer", "minimum": 1},
        "at": MOMENT,
        "kind": WORD,
        "model": WORD,
        "for": maybe(WORD),
        "reason": maybe(WORD),
        "text": WORD,
        "numbers": by_name({"anyOf": [{"type": "number"}, by_name({"type": "integer"})]}),
    }
)
EVENTS = fields({"seq": COUNT, "events": each(EVENT)})

TOTALS = fields(
    {"running": COUNT, "waiting": COUNT, "tokens_per_second": SECONDS, "requests_1h": COUNT, "errors_1h": COUNT}
)
DEVICE = fields(
    {
        "key": WORD,
        "name": WORD,
        "label": TEXT,
        "node": WORD,
        "kind": one_of("gpu", "host"),
        "total": maybe(COUNT),
        "free": maybe(COUNT),
        "margin": COUNT,
        "other": maybe(COUNT),
        "short": FLAG,
        "lost": maybe(WORD),
        "held": each(
            fields(
                {
                    "model": WORD,
                    "bytes": COUNT,
                    "phase": one_of("loading", "idle", "busy", "sleeping", "stopping"),
                    "promised": COUNT,
                }
            )
        ),
    }
)
KINDS = [
    "own_load",
    "download",
    "draining",
    "drain_grace",
    "stopping",
    "another_load",
    "pinned_or_foreign",
    "behind",
    "slots",
]
WAITING = fields(
    {
        "position": {"type": "integer", "minimum": 1},
        "model": WORD,
        "requests": {"type": "integer", "minimum": 1},
        "background": FLAG,
        "waited": SECONDS,
        "why": fields(
            {
                "kind": one_of(*KINDS),
                "text": WORD,
                "blockers": each(fields({"model": WORD, "requests": COUNT})),
                "missing": by_name(COUNT),
                "drain_in": maybe(SECONDS),
            }
        ),
    }
)
QUIET = fields(
    {"id": WORD, "state": one_of("unloaded"), "need": maybe(COUNT)},
    {
        "aliases": {"type": "array", "items": WORD, "minItems": 1},
        "pinned": one_of(True),  # type: ignore[arg-type]
        "unlisted": one_of(True),  # type: ignore[arg-type]
        "error": WORD,
    },
)
LIVELY = fields(
    {
        "id": WORD,
        "state": one_of("unloaded", "downloading", "loading", "loaded", "sleeping"),
        "need": maybe(COUNT),
        "source": maybe(one_of("footprint", "engine", "header")),
        "aliases": each(WORD),
        **dict.fromkeys(("unlisted", "pinned", "draining", "stopping", "failed"), FLAG),
        "error": maybe(WORD),
        "warning": maybe(WORD),
        "progress": maybe(PART),
        "leases": COUNT,
        "slots": maybe(COUNT),
        "waiting": COUNT,
        "ttl": maybe(SECONDS),
        "held": by_name(COUNT),
        "context": maybe(COUNT),
        "pid": maybe(COUNT),
        "started": maybe(SECONDS),
        "restarts": COUNT,
        "failures": COUNT,
        "tokens_per_second": maybe(SECONDS),
        **dict.fromkeys(("idle", "expires_in", "eta", "retry_in"), maybe(SECONDS)),
    }
)
MODEL: Schema = {"if": {"required": ["leases"]}, "then": LIVELY, "else": QUIET}
LIMITS = fields(
    {
        **dict.fromkeys(("models_max", "queue_max", "downloads_max"), COUNT),
        **dict.fromkeys(("queue_timeout", "drain_grace", "drain_timeout", "task_grace"), SECONDS),
    }
)
STATE = fields(
    {
        "seq": COUNT,
        "now": MOMENT,
        "uptime": SECONDS,
        "version": WORD,
        "engine": fields({"kind": one_of("llama-server", "embedded"), "build": WORD}),
        "limits": LIMITS,
        "totals": TOTALS,
        "devices": each(DEVICE),
        "queue": each(WAITING),
        "models": each(MODEL),
    }
)
RECORD = fields(
    {
        **dict.fromkeys(("id", "path", "dialect", "phase"), WORD),
        **dict.fromkeys(("model", "client", "agent"), TEXT),
        "at": MOMENT,
        "status": COUNT,
        **dict.fromkeys(("waited", "load", "seconds"), SECONDS),
        **dict.fromkeys(("ttft", "tokens_per_second"), maybe(SECONDS)),
        **dict.fromkeys(("prompt", "cached", "generated"), maybe(COUNT)),
        "error": maybe(WORD),
    }
)
GONE = fields({"id": WORD, "gone": one_of(True)})  # type: ignore[arg-type]
PATCH = fields(
    {"seq": COUNT, "now": MOMENT},
    {
        "model": each(MODEL),
        "device": each(DEVICE),
        "queue": each(WAITING),
        "totals": TOTALS,
        "event": each(EVENT),
        "request": each({"if": {"required": ["gone"]}, "then": GONE, "else": RECORD}),
    },
)
PIN = fields({"model": WORD, "pinned": FLAG})


def check(found: Any, schema: Schema) -> None:
    jsonschema.validate(found, schema)
