"""The data API of the dashboard: the state of the router, what changes in it, and what happened.

Stands on pool and events. Begin with `entries`: what one model is as JSON. Then `board`, which keeps all of it.

The shapes. Bytes are whole numbers, moments are seconds since 1970, all other times are seconds. Names of models and
devices, errors and sentences are text from anywhere: never HTML. `|null` is what is not known or does not apply.

`GET /router/state`::

    {"seq": 4811, "now": 1796049130.123, "uptime": 183920.5, "version": "0.2.0",
     "engine": {"kind": "llama-server"|"embedded", "build": "b11434-0a1b2c3"},
     "limits": {"models_max", "queue_max", "queue_timeout", "drain_grace", "drain_timeout", "task_grace",
                "downloads_max"},                           0 is no bound; of `queue_max`: no request waits
     "totals": {"running", "waiting", "tokens_per_second", "requests_1h", "errors_1h"},
     "devices": [{"key": "local/CUDA0", "name": "CUDA0", "label": "NVIDIA GeForce RTX 4090"|"",
                  "node": "local", "kind": "gpu"|"host",
                  "total": |null, "free": |null,            as the driver says
                  "margin",                                 is to stay free; 0: not checked
                  "other": |null,                           what other programs hold
                  "short": true,                            other programs hold of the margin
                  "lost": "why"|null,                       it cannot be read, and takes no model
                  "held": [{"model", "bytes", "phase": "loading"|"idle"|"busy"|"sleeping"|"stopping",
                            "promised"}]}],                 of `bytes`: booked, and not taken yet
     "queue": [{"position": 1, "model", "requests", "background", "waited",
                "why": {"kind", "text", "blockers": [{"model", "requests"}], "missing": {DEVICE: bytes},
                        "drain_in": |null}}],               kinds: `scheduling.reasons.Kind`
     "models": [MODEL, ...]}                                in the order of the catalog

A model without process, download, request or failure has `id`, `state` and `need`, and of `aliases`, `pinned`,
`unlisted` and `error` those that are not empty or false. Any other has all fields::

    {"id", "state": "unloaded"|"downloading"|"loading"|"loaded"|"sleeping",
     "need": |null, "source": "footprint"|"engine"|"header"|null, "aliases": [], "unlisted", "pinned",
     "draining",       it takes no new requests, and makes room once those that run have ended
     "stopping",       its process ends, and holds memory still; the state is "unloaded"
     "failed",         the state is "unloaded", and `error` says why
     "error": |null, "warning": |null,
     "progress": 0..1|null, "leases", "slots": |null, "waiting", "ttl": |null, "held": {DEVICE: bytes},
     "context": |null, "pid": |null, "started": |null, "restarts", "failures", "tokens_per_second": |null,
     "idle": |null, "expires_in": |null, "eta": |null, "retry_in": |null}

`idle`, `waited` and `uptime` run up with the clock; `expires_in`, `eta`, `retry_in` and `drain_in` run down, to 0. They
are as of the `now` beside them, and are told again only when something else has changed: who shows them counts on.
The ETag does not change with them either.

`GET /router/stream?since=SEQ`, server-sent events with `id: SEQ`::

    event: state      data: as above; the first message, and again when models or devices came or left
    event: patch      data: {"seq", "now", and of the following those that changed:
                             "model": [MODEL], "device": [DEVICE],   whole; each replaces that with its `id` or `key`
                             "queue": [...], "totals": {...},        whole
                             "event": [EVENT],                       in their order
                             "request": [RECORD]}                    as in `/router/requests`, each when it has changed,
                                                                     by `id`; {"id", "gone": true}: it was none. At
                                                                     first those that run, and the last that ended
    event: end        data: {}; the router ends
    : still here      after ten seconds of silence

There are five messages a second at most. With `since` (or `Last-Event-ID`) the first patch has the events after that
one, the latest 500 at most; a gap in `seq` is what `/router/events` has. After a restart `seq` begins again: then all
events are told.

`GET /router/events?since=SEQ&model=NAME&limit=N`: the latest N after SEQ, the oldest first. With `format=jsonl` each
event is a line, without the object around them::

    {"seq": 4811, "events": [{"seq", "at", "kind", "model", "for": |null, "reason": |null, "text", "numbers": {}}]}

`GET /router/requests?model=NAME&errors=1&limit=N`: those that run, then the last 500 that have ended, the latest
first; `errors=1` for those with an error alone. The fields are those of `records.record`, up to `error`::

    {"requests": [{"id", "at", "model", "path", "dialect", "status", "phase", "waited", "load", "ttft": |null,
                   "prompt": |null, "cached": |null, "generated": |null, "tokens_per_second": |null, "seconds",
                   "client", "agent", "error": |null}]}

`DELETE /router/requests/{id}` ends one that runs or waits: its client gets an error. It answers `{"id", "stopped"}`.

`POST /models/{name}/pin {"pinned": true|false|null}` answers `{"model", "pinned": true|false}`. Null is what the preset
says. A pin holds over loads, unloads and new presets, until the model leaves the catalog or the router ends; the preset
is what lasts. Nothing is loaded for it.

::

    entries            PURE: models and devices as JSON -> nothing
    query              PURE: queries                    -> nothing
    requests           those that run, and their ends   -> entries
    request_endpoints  /router/requests                 -> entries query
    board              all of it, kept up to date       -> entries requests
    stream             what changes, as it does         -> board
    endpoints          /router/..., /models/{name}/pin  -> entries query board stream
    page               the page at /router              -> nothing
"""
