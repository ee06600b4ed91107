"""The ASGI application: routes, who may ask for them, errors outside any dialect, start and end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.access.doors import Doors, Keys, Preflight
from router.access.doors import Head as Asker
from router.access.needs import RouteOf, Table
from router.access.origins import Hosts, Origins, is_loopback
from router.api import anthropic, openai, stream
from router.api.dialects import dialect_of
from router.api.download import Downloads
from router.api.listing import Listing
from router.api.native import NativeEndpoints
from router.api.ollama import endpoints as ollama
from router.errors import RouterError
from router.memory.forecast import Forecast
from router.models.catalog import ModelSpec
from router.models.changes import Changes
from router.proxy.gateway import ByBody, ByBodyRoute, Gateway
from router.proxy.head import Head
from router.proxy.proxied_request import refusal, request_id
from router.wire.head_cache import Heads

log = logging.getLogger("router.app")

NOWHERE = "There is no {} here; GET /models lists the models."

EXPOSED = (b"access-control-expose-headers", b"x-request-id, request-id")
_ASKED_HEADERS, _ASKED_NETWORK = b"access-control-request-headers", b"access-control-request-private-network"


def create_app(
    gateway: Gateway,
    *,
    keys: Sequence[str] = (),
    admin_keys: Sequence[str] = (),
    cors_origins: Sequence[str] = ("localhost",),
    allowed_hosts: Sequence[str] = (),
    own_hosts: Sequence[str] = (),
    reload: Callable[[], Awaitable[Changes]],
    forecast: Callable[[ModelSpec], Awaitable[Forecast]],
    build: str = "",
) -> Direct:
    """`keys` open what generates and reads, `admin_keys` everything; where one of the two kinds is missing, see
    `doors.Keys`. `cors_origins` and `allowed_hosts` are as `origins` reads them, `own_hosts` this machine's names.
    Raises LookupError for a route of which `needs` does not know who may ask for it."""
    downloads = Downloads(gateway)
    native = NativeEndpoints(gateway, Listing(gateway.pool), downloads, reload, forecast, build)
    routes = [
        *openai.routes(gateway),
        *anthropic.routes(gateway),
        *native.routes(),
        *stream.routes(gateway),
        *ollama.routes(gateway, downloads if gateway.depot else None),
    ]
    table = Table([RouteOf(route.methods or (), route.path, route.path_regex) for route in routes])
    whole = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _http_error, ClientDisconnect: _left, Exception: _defect},
        lifespan=lambda app: _lifespan(gateway),
    )
    doors = Doors(table, Hosts(allowed_hosts, own_hosts), Origins(cors_origins), Keys(keys, admin_keys))
    return Direct(whole, routes, doors)


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
    """The doors, and behind them the short way to the endpoint of a path without parameters, which does what the whole
    application does but for the search for the route."""

    def __init__(self, whole: ASGIApp, routes: Sequence[Route], doors: Doors) -> None:
        self.routes = routes
        # By whether the connection came over loopback, which the doors look at. None: the ordinary way.
        self.entrances: dict[bool, Heads[Entrance | None]] = {False: Heads(), True: Heads()}
        self._exact = _exact(routes)
        self._doors = doors
        self._short = self.guarded(_call)
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._whole(scope, receive, send)
            return
        method, path, headers = scope["method"], scope["path"], scope["headers"]
        named = dict(headers)
        is_local = came_over_loopback(scope.get("server"))
        if method != "POST" or b"origin" in named:
            send = _varied(send)  # an answer that is kept is another one for another page
        if not self._doors.is_plain(method, path, scope["query_string"], headers, named, is_local):
            answer, send = self._ask(scope, send, is_local)
            if answer is not None:
                await answer(scope, receive, send)
                return
        route = self._exact.get((method, path))
        if route is None and path.endswith("\n"):
            # A route's pattern ends before a line feed too, but tables that are looked into by path do not know that.
            await _refusal(scope, _plain(404, NOWHERE.format(ascii(path[:200]))))(scope, receive, send)
        elif route is None:
            await self._whole(scope, receive, send)
        else:
            scope["endpoint"] = route.endpoint
            await self._short(scope, receive, send)

    def _ask(self, scope: Scope, send: Send, is_local: bool) -> tuple[Response | None, Send]:
        """The answer to whom the doors stay closed, or who only asks whether they do; and how answers are sent."""
        is_old = scope.get("http_version") == "1.0"
        asker = Asker(
            scope["method"], scope["path"], scope["query_string"], scope["headers"], is_local=is_local, is_old=is_old
        )
        match self._doors.preflight(asker):
            case Preflight() as preflight:
                return _preflight(asker, preflight), send
            case RouterError() as error:
                return _refusal(scope, error), send
        verdict = self._doors.ask(asker)
        if verdict.origin is not None:
            send = _telling(send, [(b"access-control-allow-origin", verdict.origin), EXPOSED])
        return _refusal(scope, verdict.refusal) if verdict.refusal else None, send

    def by_body(self, head: Head, is_local: bool) -> ByBody | None:
        """Who answers a request of this head, if that needs no more than its body; `is_local` is whether it came over
        loopback."""
        route = self._exact.get((head.method, head.path))
        if not isinstance(route, ByBodyRoute):
            return None
        query = head.target.partition(b"?")[2]
        asker = Asker(head.method, head.path, query, head.headers, is_local=is_local)
        return route.by_body if self._doors.is_always_in(asker) else None

    def guarded(self, app: ASGIApp) -> ASGIApp:
        """It, with its defects told."""
        return ServerErrorMiddleware(app, handler=_defect)


def came_over_loopback(server: tuple[str, int | None] | None) -> bool:
    """By the address that a connection came to, as ASGI tells it: a unix socket has no port. Where it is not known it
    may have."""
    return server is None or (server[1] is not None and is_loopback(server[0]))


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


def _telling(send: Send, more: Sequence[tuple[bytes, bytes]]) -> Send:
    """`send`, with these headers more."""

    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *more]
        await send(message)

    return telling


def _varied(send: Send) -> Send:
    return _telling(send, [(b"vary", b"Origin")])


def _preflight(asker: Asker, preflight: Preflight) -> Response:
    asked = {name: b", ".join(asker.all(name)) for name in (_ASKED_HEADERS, _ASKED_NETWORK)}
    told = {
        b"access-control-allow-origin": asker.all(b"origin")[0],
        b"access-control-allow-methods": ", ".join(preflight.methods).encode(),
        b"access-control-max-age": b"600",
        b"vary": b", ".join((b"Access-Control-Request-Method", _ASKED_HEADERS, _ASKED_NETWORK)),
    }
    if asked[_ASKED_HEADERS]:
        told[b"access-control-allow-headers"] = asked[_ASKED_HEADERS]
    if asked[_ASKED_NETWORK]:
        told[b"access-control-allow-private-network"] = b"true"
    response = PlainTextResponse("OK")
    response.raw_headers += told.items()
    return response


def _plain(status: int, message: str) -> RouterError:
    error = RouterError(message)
    error.status = status
    error.code = {404: "not_found_error", 405: "invalid_request_error"}.get(status, "server_error")
    return error


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    path = request.url.path
    if exc.status_code == 404:
        message = NOWHERE.format(path[:200])
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
