"""What each route of the application needs of whoever asks.

PURE. `NEEDS` has a row for every method and path, and a route without one keeps the application from being made: a new
one cannot be forgotten. Read by `doors`; the routes are found the way the application finds them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple
from urllib.parse import parse_qsl


class Need(IntEnum):
    """What a request does, and so which key opens it: each key opens what is below it too."""

    OPEN = 0  # nothing is told that anybody may not know
    READ = 1  # an API key
    GENERATE = 2  # an API key; has an effect: a model works, or is loaded
    ADMIN = 3  # an admin key; has an effect on others: what runs, what there is, what it is called


OPEN, READ, GENERATE, ADMIN = Need

# Every route there is, by its method and path. `reload` in the query of a GET makes it ADMIN, `autoload` GENERATE.
NEEDS: Mapping[str, Need] = {
    **dict.fromkeys(("GET /health", "GET /v1/health"), OPEN),
    # llama.cpp's router
    "GET /models": READ,
    "GET /v1/models": READ,
    "GET /v1/models/{name:path}": READ,
    "GET /models/{name:path}/settings": READ,
    "GET /models/estimate": READ,
    "GET /models/sse": READ,
    "GET /props": READ,
    "GET /metrics": READ,
    "GET /slots": READ,
    "GET /lora-adapters": READ,
    "GET /v1/stream": READ,
    "POST /v1/streams/lookup": READ,
    "DELETE /v1/stream": GENERATE,  # ends an answer that its client asked for
    "POST /models": ADMIN,
    "DELETE /models": ADMIN,
    "POST /models/load": ADMIN,
    "POST /models/unload": ADMIN,
    "POST /models/reload": ADMIN,
    "POST /props": ADMIN,
    "POST /slots/{slot}": ADMIN,  # saves, restores and erases what other conversations have computed
    "POST /lora-adapters": ADMIN,  # scales them for everybody
    # what a model answers
    **dict.fromkeys(
        (
            *("POST /v1/chat/completions", "POST /chat/completions", "POST /v1/chat/completions/control"),
            *("POST /v1/chat/completions/input_tokens", "POST /chat/completions/input_tokens"),
            *("POST /v1/completions", "POST /completions", "POST /completion", "POST /infill"),
            *("POST /v1/responses", "POST /responses"),
            *("POST /v1/responses/input_tokens", "POST /responses/input_tokens"),
            *("POST /v1/messages", "POST /v1/messages/count_tokens"),
            *("POST /v1/embeddings", "POST /embeddings", "POST /embedding"),
            *("POST /v1/audio/transcriptions", "POST /audio/transcriptions"),
            *("POST /v1/rerank", "POST /rerank", "POST /v1/reranking", "POST /reranking"),
            *("POST /tokenize", "POST /detokenize", "POST /apply-template", "POST /v1/systemone"),
        ),
        GENERATE,
    ),
    # Ollama's
    "GET /": READ,
    "GET /api/version": READ,
    "GET /api/tags": READ,
    "GET /api/ps": READ,
    "POST /api/show": READ,
    "HEAD /api/blobs/{digest}": READ,
    "POST /api/chat": GENERATE,  # a `keep_alive` of 0 unloads with any key, as its clients are used to
    "POST /api/generate": GENERATE,
    "POST /api/embed": GENERATE,
    "POST /api/embeddings": GENERATE,
    "POST /api/copy": ADMIN,
    "POST /api/create": ADMIN,
    "DELETE /api/delete": ADMIN,
    "POST /api/pull": ADMIN,
    "POST /api/blobs/{digest}": ADMIN,
}

# Where a form is the API.
MULTIPART = frozenset({"/v1/audio/transcriptions", "/audio/transcriptions"})


class RouteOf(NamedTuple):
    methods: Collection[str]
    path: str
    regex: re.Pattern[str]


class Table:
    """The needs of these routes, found the way the application finds routes: the first one that matches. Raises
    LookupError for a route without a row."""

    def __init__(self, routes: Sequence[RouteOf], needs: Mapping[str, Need] = NEEDS) -> None:
        self._rows: list[tuple[re.Pattern[str], dict[str, Need]]] = []
        for methods, path, regex in routes:
            named = {method for method in methods if method != "HEAD" or "GET" not in methods}
            if missing := [method for method in named if f"{method} {path}" not in needs]:
                raise LookupError(f"{missing[0]} {path} has no row in needs.NEEDS: say who may ask for it")
            row = {method: needs[f"{method} {path}"] for method in named}
            if "GET" in row:
                row["HEAD"] = row["GET"]
            self._rows.append((regex, row))
        # Most paths are found without the search. Not by the routes' own paths: an earlier pattern may match them.
        self._exact = {path: self._search(path) for _, path, _ in routes if "{" not in path}

    def methods(self, path: str) -> Mapping[str, Need]:
        """What may be asked for at a path."""
        found = self._exact.get(path)
        return self._search(path) if found is None else found

    def need(self, method: str, path: str, query: bytes) -> Need:
        """What is no route is told so to whoever may read."""
        methods = self.methods(path)
        need = methods.get(method)
        if need is None:
            return OPEN if OPEN in methods.values() else READ
        return max(need, _by_query(query)) if query and method in ("GET", "HEAD") else need

    def _search(self, path: str) -> dict[str, Need]:
        found: dict[str, Need] = {}
        for regex, row in self._rows:
            if regex.match(path):
                found = {**row, **found}
        return found


def _by_query(query: bytes) -> Need:
    try:
        said = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    except ValueError:
        return ADMIN
    if any(name == "reload" and value for name, value in said):
        return ADMIN
    return GENERATE if any(name == "autoload" and value not in ("", "0", "false") for name, value in said) else OPEN
