"""The ASGI application that uvicorn calls: origin and key first, then the shortest way to the endpoint.

A path without parameters needs no search for its route: one look into a table finds its endpoint. All other requests
go through Starlette. `connection.ClientConnection` answers some requests before any of this. For them `FastPathApp`
keeps what it has found out about a head: the endpoint that needs no more than a body, or that there is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from router.access.guard import Guard, Preflight, RequestFacts
from router.access.hosts import is_loopback
from router.errors import RouterError
from router.logs import request_ids
from router.proxy.endpoints import ModelFromBody, ModelFromBodyRoute
from router.proxy.head import Head, identify
from router.proxy.plain import PlainRoute
from router.proxy.proxied_request import ProxiedRequest
from router.records.records import Records
from router.server.cors import CREDENTIALS, EXPOSED_HEADERS, preflight_response, with_headers, with_vary
from router.server.error_handlers import ErrorHandlers, on_disconnect
from router.server.prefix import CLIENT_PATH, OUTSIDE, Prefix
from router.wire.head_cache import HeadCache
from router.wire.headers import Headers

INDEX = "/index.html"


class CachedRoute(NamedTuple):
    """A request head that was parsed once, and the endpoint that needs only the body to answer. `plain_routes` has the
    shortest way to each model, by the name that a body gives."""

    head: Head
    endpoint: ModelFromBody
    keep_alive: bool
    plain_routes: dict[str | None, PlainRoute]


class FastPathApp:
    """Checks a request's origin and key, then calls the endpoint of its path.

    `app` is the whole application; it answers what has no entry in the table. Both ways give the same answers.
    `prefix` is that of `--api-prefix`, without which no path exists.
    `wants_page` says of query and headers of a GET of `/` whether it means INDEX.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[Route],
        guard: Guard,
        errors: ErrorHandlers,
        prefix: str = "",
        wants_page: Callable[[bytes, Headers], bool] = lambda query, headers: False,
    ) -> None:
        self.routes = routes
        # One cache for connections over loopback (True), one for all others: the guard treats them differently.
        # None: a request with this head takes the ordinary way.
        self.cached_routes: dict[bool, HeadCache[CachedRoute | None]] = {False: HeadCache(), True: HeadCache()}
        self._by_path = _index_by_path(routes)
        # Of the gateway, which all these routes share.
        known = [route.model_from_body.records for route in routes if isinstance(route, ModelFromBodyRoute)]
        self.records = known[0] if known else Records()
        self._guard = guard
        self._errors = errors
        self._call_endpoint = self.with_error_handler(_call_endpoint)
        self._app = app
        self._prefix = Prefix(prefix) if prefix else None
        self._wants_page = wants_page

    def __repr__(self) -> str:
        cached = sum(map(len, self.cached_routes.values()))
        return f"<{type(self).__name__} routes={len(self.routes)} cached_heads={cached}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._prefix:
            scope = self._prefix.inner_scope(scope)
            send = self._prefix.with_location(send)
        named = dict(scope["headers"])
        with request_ids.working_for(identify(scope, named.get(b"x-request-id", b""))):
            await self._answer(scope, receive, send, named)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, named: dict[bytes, bytes]) -> None:
        method, path, headers = scope["method"], scope["path"], scope["headers"]
        if path == "/" and method == "GET" and self._wants_page(scope["query_string"], headers):
            path = INDEX
            scope = {CLIENT_PATH: "/", **scope, "path": path, "raw_path": path.encode()}
        is_local = came_over_loopback(scope.get("server"))
        if method != "POST" or b"origin" in named:
            send = with_vary(send)  # a cached answer must not be given to a page of another origin
        if not self._guard.is_surely_allowed(method, path, scope["query_string"], headers, named, is_local):
            answer, send = self._check_access(scope, send, is_local)
            if answer is not None:
                await answer(scope, receive, send)
                return
        route = self._by_path.get((method, path))
        if self._prefix and path == OUTSIDE:
            await self._errors.outside(scope, self._prefix.path)(scope, receive, send)
        elif route is None and path.endswith("\n"):
            # The regex of a route also matches a path with a line feed at its end. Tables that are indexed by path
            # (who may call what) do not know such a path, so it must not reach the router's routes.
            await self._errors.not_found(scope, ascii(path[:200]))(scope, receive, send)
        elif route is None:
            await self._app(scope, receive, send)
        else:
            scope["endpoint"] = route.endpoint
            await self._call_endpoint(scope, receive, send)

    def _check_access(self, scope: Scope, send: Send, is_local: bool) -> tuple[Response | None, Send]:
        """The answer to a request that may not pass or is a CORS preflight, else None. Also the `send` to answer
        with, which may add headers."""
        is_old = scope.get("http_version") == "1.0"
        facts = RequestFacts(
            scope["method"], scope["path"], scope["query_string"], scope["headers"], is_local=is_local, is_old=is_old
        )
        match self._guard.preflight(facts):
            case Preflight() as preflight:
                credentials = self._takes_credentials(facts.all(b"origin")[0])
                return preflight_response(facts, preflight, credentials=credentials), send
            case RouterError() as error:
                return self._errors.response(scope, error), send
        verdict = self._guard.check(facts)
        if verdict.origin is not None:
            headers = [(b"access-control-allow-origin", verdict.origin), EXPOSED_HEADERS]
            if self._takes_credentials(verdict.origin):
                headers.append(CREDENTIALS)
            send = with_headers(send, headers)
        return self._errors.response(scope, verdict.refusal) if verdict.refusal else None, send

    def _takes_credentials(self, origin: bytes) -> bool:
        return self._guard.origins.takes_credentials(origin.decode("latin-1"))

    def inner_head(self, head: Head) -> Head | None:
        """The head as the application knows it, without the prefix of its path; None for a path outside the prefix."""
        return self._prefix.inner_head(head) if self._prefix else head

    def endpoint_for(self, head: Head, is_local: bool) -> ModelFromBody | None:
        """The endpoint for a request with this head, if the endpoint needs no more than the body and the guard lets
        every such request in. `is_local`: the connection came over loopback."""
        route = self._by_path.get((head.method, head.path))
        if not isinstance(route, ModelFromBodyRoute):
            return None
        query = head.target.partition(b"?")[2]
        facts = RequestFacts(head.method, head.path, query, head.headers, is_local=is_local)
        return route.model_from_body if self._guard.is_allowed_with_any_body(facts) else None

    def fallen_back(self, request: ProxiedRequest) -> ASGIApp:
        """The app for a request that was on the fast path: the log says of its lines whose they are."""
        app = self.with_error_handler(request)

        async def identified(scope: Scope, receive: Receive, send: Send) -> None:
            with request_ids.working_for(request.id):
                await app(scope, receive, send)

        return identified

    def with_error_handler(self, app: ASGIApp) -> ASGIApp:
        """Wraps `app`: an unexpected exception is logged and answered with 500."""
        return ServerErrorMiddleware(app, handler=self._errors.on_defect)


def came_over_loopback(server: tuple[str, int | None] | None) -> bool:
    """Whether a connection came over loopback, judged by the router's own address in the ASGI scope. A unix socket has
    no port and counts as remote. An unknown address counts as loopback."""
    return server is None or (server[1] is not None and is_loopback(server[0]))


def _index_by_path(routes: Sequence[Route]) -> dict[tuple[str, str], Route]:
    """Routes without parameters, by method and path. Left out: paths that an earlier route with parameters matches."""
    found: dict[tuple[str, str], Route] = {}
    patterns: list[re.Pattern[str]] = []
    for route in routes:
        if route.param_convertors:
            patterns.append(route.path_regex)
        elif not any(pattern.match(route.path) for pattern in patterns):
            for method in route.methods or ():
                found.setdefault((method, route.path), route)
    return found


async def _call_endpoint(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive, send)
    try:
        response = await scope["endpoint"](request)
    except ClientDisconnect as exc:
        response = await on_disconnect(request, exc)
    await response(scope, receive, send)
