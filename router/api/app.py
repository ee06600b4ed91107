"""The ASGI application: routes, who may ask for them, errors outside any dialect, start and end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from router.access.doors import Doors, Keys
from router.access.needs import RouteOf, Table
from router.access.origins import Hosts, Origins
from router.api import anthropic, ollama, openai, stream
from router.api.download import Downloads
from router.api.listing import Listing
from router.api.native import Native
from router.api.ollama import Hub
from router.memory.forecast import Forecast
from router.models.catalog import ModelSpec
from router.models.changes import Changes
from router.proxy.gateway import Gateway
from router.proxy.protocols import Dialect
from router.server.error_handlers import ErrorHandlers, on_disconnect
from router.server.fast_path import FastPathApp


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
    hub: Hub | None = None,
) -> FastPathApp:
    """`keys` open what generates and reads, `admin_keys` everything; where one of the two kinds is missing, see
    `doors.Keys`. `cors_origins` and `allowed_hosts` are as `origins` reads them, `own_hosts` this machine's names.
    `hub` is where Ollama's clients download from, and remove, if it is not the gateway's depot. Raises LookupError for
    a route of which `needs` does not know who may ask for it."""
    native = Native(gateway, Listing(gateway.pool), reload, forecast, build)
    downloads = Downloads(gateway)
    own = [*native.routes(), *stream.routes(gateway), *downloads.routes()]
    routes = [*openai.routes(gateway), *anthropic.routes(gateway), *own]
    routes += ollama.routes(gateway, hub or (downloads if gateway.depot else None))
    table = Table([RouteOf(route.methods or (), route.path, route.path_regex) for route in routes])
    errors = ErrorHandlers(dialect_of)
    whole = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: errors.on_http_exception,
            ClientDisconnect: on_disconnect,
            Exception: errors.on_defect,
        },
        lifespan=lambda app: _lifespan(gateway),
    )
    doors = Doors(table, Hosts(allowed_hosts, own_hosts), Origins(cors_origins), Keys(keys, admin_keys))
    return FastPathApp(whole, routes, doors, errors)


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


def dialect_of(path: str) -> Dialect:
    """Whose errors a client of this path understands."""
    if path.startswith("/v1/messages"):
        return anthropic.DIALECT
    return ollama.DIALECT if path == "/" or path.startswith("/api/") else openai.DIALECT
