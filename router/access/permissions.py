"""PURE: which permission each route of the application takes.

`REQUIRED` has a row for every method and path. The application cannot be made while a route has no row: a new route
cannot be forgotten. `PermissionTable` finds the row of a request in the same way as the application finds the route.
Read by `guard`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple
from urllib.parse import parse_qsl


class Permission(IntEnum):
    """What a request does, and so which key it takes. A key gives all lower permissions too."""

    OPEN = 0  # no key; the answer holds nothing that is secret
    READ = 1  # an API key
    GENERATE = 2  # an API key; has an effect: a model works, or is loaded
    ADMIN = 3  # an admin key; has an effect on others: what runs, which models there are, their names


OPEN, READ, GENERATE, ADMIN = Permission

# Every route, by method and path. In the query of a GET, `reload` raises the permission to ADMIN, `autoload` to
# GENERATE.
REQUIRED: Mapping[str, Permission] = {
    **dict.fromkeys(("GET /health", "GET /v1/health", "GET /readyz", "GET /livez"), OPEN),
    # llama.cpp's chat page, as a browser gets it at /: static files, the same for everyone
    "GET /index.html": OPEN,
    "GET /{name:page_file}": READ,  # OPEN for the files that the page has
    # llama.cpp's router
    "GET /models": READ,
    "GET /v1/models": READ,
    "GET /v1/models/{name:path}": READ,
    "GET /models/{name:path}/settings": READ,
    "GET /models/{name:path}/log": ADMIN,  # what processes write may repeat prompts
    "GET /models/estimate": READ,
    "GET /models/sse": READ,
    "GET /props": READ,
    "GET /metrics": READ,
    "GET /slots": READ,
    "GET /lora-adapters": READ,
    **dict.fromkeys(("GET /tools", "GET /cors-proxy"), READ),  # none, and refused, as are their POSTs
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
    "POST /lora-adapters": ADMIN,  # scales the adapters for everybody
    # the dashboard's
    "GET /router/state": READ,
    "GET /router/events": READ,
    "GET /router/stream": READ,
    "GET /router/requests": READ,
    "DELETE /router/requests/{id:path}": ADMIN,  # ends the request of any client
    "POST /models/{name:path}/pin": ADMIN,
    # the dashboard's page: static files, which hold nothing of this router
    **dict.fromkeys(("GET /router", "GET /router/"), OPEN),
    **dict.fromkeys(
        (
            *("GET /router/app.js", "GET /router/data.js", "GET /router/panel.js", "GET /router/style.css"),
            *("GET /router/vendor.js", "GET /router/vendor.txt"),
        ),
        OPEN,
    ),
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
            *("POST /tools", "POST /cors-proxy"),
        ),
        GENERATE,
    ),
    # responses that are kept: each belongs to the key that made it
    **dict.fromkeys(
        (
            *("GET /v1/responses/{response_id}", "GET /responses/{response_id}"),
            *("GET /v1/responses/{response_id}/input_items", "GET /responses/{response_id}/input_items"),
        ),
        READ,
    ),
    **dict.fromkeys(("DELETE /v1/responses/{response_id}", "DELETE /responses/{response_id}"), GENERATE),
    # Ollama's
    "GET /": READ,
    "GET /api/version": READ,
    "GET /api/tags": READ,
    "GET /api/ps": READ,
    "POST /api/show": READ,
    "HEAD /api/blobs/{digest}": READ,
    "POST /api/chat": GENERATE,  # a `keep_alive` of 0 unloads with any key, as Ollama's clients are used to
    "POST /api/generate": GENERATE,
    "POST /api/embed": GENERATE,
    "POST /api/embeddings": GENERATE,
    "POST /api/copy": ADMIN,
    "POST /api/create": ADMIN,
    "DELETE /api/delete": ADMIN,
    "POST /api/pull": ADMIN,
    "POST /api/push": ADMIN,
    "POST /api/blobs/{digest}": ADMIN,
    "GET /api/status": READ,
    # always refused: they are services of ollama.com
    **dict.fromkeys(
        (
            *("POST /api/me", "POST /api/signout", "DELETE /api/user/keys/{key}"),
            *("POST /api/web_search", "POST /api/web_fetch"),
            *("POST /api/experimental/web_search", "POST /api/experimental/web_fetch"),
        ),
        GENERATE,
    ),
}

# The paths that take a form from a browser too, not only JSON.
FORM_PATHS = frozenset({"/v1/audio/transcriptions", "/audio/transcriptions"})


class RoutePattern(NamedTuple):
    """A route as the application has it. `regex` is what a path must match."""

    methods: Collection[str]
    path: str
    regex: re.Pattern[str]


class PermissionTable:
    """The permissions of these routes. As in the application, the first route that matches counts.

    `is_page_file` says of a path without a route of its own whether it may be a file of the chat page.

    Raises LookupError for a route without a row in `required`.
    """

    def __init__(
        self,
        routes: Sequence[RoutePattern],
        required: Mapping[str, Permission] = REQUIRED,
        is_page_file: Callable[[str], bool] = lambda path: False,
    ) -> None:
        self._is_page_file = is_page_file
        self._rows: list[tuple[re.Pattern[str], dict[str, Permission]]] = []
        for methods, path, regex in routes:
            named = {method for method in methods if method != "HEAD" or "GET" not in methods}
            if missing := [method for method in named if f"{method} {path}" not in required]:
                raise LookupError(f"{missing[0]} {path} has no row in permissions.REQUIRED: add one")
            row = {method: required[f"{method} {path}"] for method in named}
            if "GET" in row:
                row["HEAD"] = row["GET"]
            self._rows.append((regex, row))
        # Most paths are found without a search. Their rows are searched for here: an earlier pattern may match them.
        self._exact = {path: self._search(path) for _, path, _ in routes if "{" not in path}

    def __repr__(self) -> str:
        return f"<PermissionTable: {len(self._rows)} routes>"

    def methods(self, path: str) -> Mapping[str, Permission]:
        """The methods that a path has, each with its permission; empty if there is no such path."""
        found = self._exact.get(path)
        return self._search(path) if found is None else found

    def required(self, method: str, path: str, query: bytes) -> Permission:
        """The permission that a request takes. A request that matches no route takes READ: only a client that may read
        learns that there is no such route."""
        methods = self.methods(path)
        permission = methods.get(method)
        if permission is None:
            return OPEN if OPEN in methods.values() else READ
        if permission is READ and path not in self._exact and method in ("GET", "HEAD") and self._is_page_file(path):
            permission = OPEN
        return max(permission, _by_query(query)) if query and method in ("GET", "HEAD") else permission

    def _search(self, path: str) -> dict[str, Permission]:
        found: dict[str, Permission] = {}
        for regex, row in self._rows:
            if regex.match(path):
                found = {**row, **found}
        return found


def _by_query(query: bytes) -> Permission:
    """The permission that the query of a GET takes."""
    try:
        parameters = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    except ValueError:
        return ADMIN
    if any(name == "reload" and value for name, value in parameters):
        return ADMIN
    has_autoload = any(name == "autoload" and value not in ("", "0", "false") for name, value in parameters)
    return GENERATE if has_autoload else OPEN
