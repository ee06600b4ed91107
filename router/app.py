"""The ASGI application: routes, keys, CORS, errors outside any dialect, start and end."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from router.api import anthropic, ollama, openai, stream
from router.api.download import Downloads
from router.api.gateway import ByBody, ByBodyRoute, Gateway
from router.api.head import Head
from router.api.listing import Listing
from router.api.native import Native
from router.api.ollama import Hub
from router.api.proxy import Dialect, refusal, request_id
from router.catalog import ModelSpec
from router.changes import Changes
from router.errors import RouterError, Unauthorized
from router.forecast import Forecast
from router.heads import Heads
from router.upstream import Headers as RawHeaders

log = logging.getLogger("router.app")

OPEN_PATHS = frozenset({"/health", "/v1/health"})
LOOPBACK_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"


def create_app(
    gateway: Gateway,
    *,
    keys: Sequence[str] = (),
    cors_origins: Sequence[str] = ("localhost",),
    reload: Callable[[], Awaitable[Changes]],
    forecast: Callable[[ModelSpec], Awaitable[Forecast]],
    build: str = "",
    hub: Hub | None = None,
) -> Direct:
    """`keys` are the API keys, any of which opens everything; none means no authentication. `cors_origins` are whole
    origins, `*`, or `localhost` for loopback on any port. `hub` is where Ollama's clients download from, and remove,
    if it is not the gateway's depot."""
    native = Native(gateway, Listing(gateway.pool), reload, forecast, build)
    downloads = Downloads(gateway)
    own = [*native.routes(), *stream.routes(gateway), *downloads.routes()]
    routes = [*openai.routes(gateway), *anthropic.routes(gateway), *own]
    routes += ollama.routes(gateway, hub or (downloads if gateway.depot else None))
    whole = Starlette(
        routes=routes,
        middleware=[_cors(cors_origins), Middleware(Keys, keys=keys)],
        exception_handlers={HTTPException: _http_error, ClientDisconnect: _left, Exception: _defect},
        lifespan=lambda app: _lifespan(gateway),
    )
    return Direct(whole, routes, keys)


@contextlib.asynccontextmanager
async def _lifespan(gateway: Gateway) -> AsyncIterator[None]:
    starting = asyncio.create_task(gateway.pool.start())
    try:
        yield
    finally:
        starting.cancel()
        await asyncio.wait({starting})
        await gateway.pool.close()
        gateway.upstream.close()


class Entrance(NamedTuple):
    """A head, and who answers what comes with it."""

    head: Head
    by_body: ByBody
    keep_alive: bool


class Direct:
    """The short way to the endpoint of a path without parameters, for whoever is no browser. It does what the whole
    application does but for the search for the route and CORS."""

    def __init__(self, whole: ASGIApp, routes: Sequence[Route], keys: Sequence[str]) -> None:
        self.routes = routes
        self.entrances: Heads[Entrance | None] = Heads()  # None: the ordinary way
        self._exact = _exact(routes)
        self._keys = Keys(_call, keys)
        self._short = self.guarded(self._keys)
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route(scope["method"], scope["path"], scope["headers"]) if scope["type"] == "http" else None
        if route is None:
            await self._whole(scope, receive, send)
        else:
            scope["endpoint"] = route.endpoint
            await self._short(scope, receive, send)

    def by_body(self, head: Head) -> ByBody | None:
        """Who answers a request of this head, if that needs no more than its body."""
        route = self._route(head.method, head.path, head.headers)
        return route.by_body if isinstance(route, ByBodyRoute) and self._keys.admit(head.path, head.headers) else None

    def guarded(self, app: ASGIApp) -> ASGIApp:
        """It, with its defects told."""
        return ServerErrorMiddleware(app, handler=_defect)

    def _route(self, method: str, path: str, headers: RawHeaders) -> Route | None:
        route = self._exact.get((method, path))
        return None if route is None or b"origin" in dict(headers) else route


def _exact(routes: Sequence[Route]) -> dict[tuple[str, str], Route]:
    """Routes by method and path, of the paths that no earlier route with parameters matches."""
    found: dict[tuple[str, str], Route] = {}
    patterns: list[re.Pattern[str]] = []
    for route in routes:
        if route.param_convertors:
            patterns.append(route.path_regex)
        elif not any(pattern.match(route.path) for pattern in patterns):
            for method in route.methods or ():
                found.setdefault((method, route.path), route)
    return found


async def _call(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive, send)
    try:
        response = await scope["endpoint"](request)
    except ClientDisconnect as exc:
        response = await _left(request, exc)
    await response(scope, receive, send)


class Keys:
    """Nothing but the health check answers without a key, if there are keys."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.admit(scope["path"], scope["headers"]):
            await self._app(scope, receive, send)
            return
        error = Unauthorized("Invalid API key. Send a valid one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.")
        await _refusal(scope, error)(scope, receive, send)

    def admit(self, path: str, headers: RawHeaders) -> bool:
        return not self._keys or path in OPEN_PATHS or self._is_known(Headers(raw=list(headers)))

    def _is_known(self, headers: Headers) -> bool:
        given = [_token(headers.get(name, "")) for name in ("authorization", "x-api-key")]
        # Every key is compared, and each in constant time: the answer's timing tells nothing about them.
        matches = [hmac.compare_digest(token, key) for token in given for key in self._keys]
        return any(matches)


def _token(header: str) -> bytes:
    """The key that a header holds. llama-server insists on `Bearer` in neither of the two."""
    scheme, _, token = header.partition(" ")
    return (token.strip() if scheme.lower() == "bearer" else header).encode("latin-1")


def dialect_of(path: str) -> Dialect:
    """Whose errors a client of this path understands."""
    if path.startswith("/v1/messages"):
        return anthropic.DIALECT
    return ollama.DIALECT if path == "/" or path.startswith("/api/") else openai.DIALECT


def _cors(origins: Sequence[str]) -> Middleware:
    patterns = [LOOPBACK_ORIGIN if origin == "localhost" else re.escape(origin) for origin in origins]
    return Middleware(
        CORSMiddleware,
        allow_origins=["*"] if "*" in origins else [],
        allow_origin_regex="|".join(patterns) or None,
        allow_methods=["GET", "POST", "DELETE", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "request-id"],
    )


def _plain(status: int, message: str) -> RouterError:
    error = RouterError(message)
    error.status = status
    error.code = {404: "not_found_error", 405: "invalid_request_error"}.get(status, "server_error")
    return error


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    path = request.url.path
    if exc.status_code == 404:
        message = f"There is no {path[:200]} here; GET /models lists the models."
    elif exc.status_code == 405:
        message = f"{request.method} is not allowed for {path[:200]}."
    else:
        message = exc.detail
    response = _refusal(request.scope, _plain(exc.status_code, message))
    response.headers.update(exc.headers or {})
    return response


async def _left(request: Request, exc: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _defect(request: Request, exc: Exception) -> Response:
    log.critical("a defect in the router: %s %s", request.method, request.url.path, exc_info=exc)
    message = "The router has a defect; its log tells more. Please report it."
    return _refusal(request.scope, _plain(500, message))


def _refusal(scope: Scope, error: RouterError) -> Response:
    return refusal(dialect_of(scope["path"]), error, request_id(Head.of(scope)))
