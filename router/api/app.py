"""create_app(): every API's routes in one ASGI application, behind the guard; what happens at its start and its end.

`serve` calls it once. The application is Starlette's; `FastPathApp` around it checks host, origin and key, and calls
the endpoints of common paths without Starlette's search for a route.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from router import __version__
from router.access.guard import Guard
from router.access.hosts import AllowedHosts
from router.access.keys import Keys
from router.access.origins import AllowedOrigins
from router.access.permissions import GENERATE, OPEN, REQUIRED, PermissionTable, RoutePattern
from router.api import openai, stream
from router.api.dashboard.endpoints import DashboardEndpoints
from router.api.dashboard.page import DashboardPage
from router.api.dashboard.request_endpoints import RequestEndpoints
from router.api.dialects import OPENAI, dialect_of
from router.api.download import Downloads
from router.api.home import DASHBOARD, Home, wants_page
from router.api.messages import endpoints as messages
from router.api.metrics import MetricsEndpoint
from router.api.native import NativeEndpoints, build_info
from router.api.ollama import endpoints as ollama
from router.api.predict import Predictions, Variables
from router.api.probes import Probes
from router.api.responses import endpoints as responses
from router.errors import ConfigError
from router.memory.forecast import Forecast
from router.metrics.exporter import Exporter
from router.models.changes import Changes
from router.page.chat_page import ChatPage
from router.pool.outlook import Outlook
from router.proxy.endpoints import with_dialect_errors
from router.proxy.gateway import Gateway
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
    forecast: Callable[[Outlook], Awaitable[Forecast]],
    engine: str = "",
    build: str = "",
    predict: Variables | None = None,
    is_draining: Callable[[], bool] = lambda: False,
    prefix: str = "",
    page: ChatPage | None = None,
) -> FastPathApp:
    """The application.

    `keys` allow generating and reading, `admin_keys` everything; `access.keys` says what holds if one kind is missing.
    `cors_origins` and `allowed_hosts` are as `access.origins` reads them; `own_hosts` are this machine's names.
    `reload` and `forecast` are as in NativeEndpoints; `engine` is the kind of the router's own engine, `build`
    its line of `--version`.
    `predict` adds Google Cloud's routes.
    `is_draining`: whether the router is about to end.
    `prefix` stands before every path, as in `--api-prefix`.
    `page` is shown to browsers at `/`.
    Raises LookupError for a route that `access.permissions` does not list."""
    downloads = Downloads(gateway)
    native = NativeEndpoints(gateway, downloads, reload, forecast, build)
    exporter = Exporter(
        gateway.pool,
        gateway.records,
        gateway.upstream,
        version=__version__,
        engine=engine,
        engine_build=build_info(build),
    )
    probes = Probes(is_draining, gateway.pool.exchange)
    routes = [
        *probes.routes(),
        *openai.routes(gateway),
        *responses.routes(gateway),
        *messages.routes(gateway),
        *RequestEndpoints(gateway).routes(),
        *DashboardEndpoints(gateway, engine, build_info(build)).routes(),
        *DashboardPage().routes(),
        *native.routes(),
        *MetricsEndpoint(gateway, exporter).routes(),
        *stream.routes(gateway),
        *ollama.routes(gateway, downloads if gateway.hub_models else None),
    ]
    required = dict(REQUIRED)
    if predict:
        routes += _predict_routes(gateway, predict, probes, routes)
        required |= {f"POST {predict.predict}": GENERATE, f"GET {predict.health}": OPEN}
    home = Home(page, has_dashboard=any(route.path == DASHBOARD for route in routes))
    routes += home.routes()
    patterns = [RoutePattern(route.methods or (), route.path, route.path_regex) for route in routes]
    table = PermissionTable(patterns, required, home.has_file)
    errors = ErrorHandlers(dialect_of)
    whole = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: errors.on_http_exception,
            ClientDisconnect: on_disconnect,
            Exception: errors.on_defect,
        },
        lifespan=lambda app: _lifespan(gateway, exporter, page),
    )
    guard = Guard(table, AllowedHosts(allowed_hosts, own_hosts), AllowedOrigins(cors_origins), Keys(keys, admin_keys))
    return FastPathApp(whole, routes, guard, errors, prefix, wants_page)


def _predict_routes(gateway: Gateway, variables: Variables, probes: Probes, routes: Sequence[Route]) -> list[Route]:
    """Raises ConfigError for a path that the router has already."""
    taken = {route.path for route in routes}
    if variables.predict in taken:
        raise ConfigError(f"AIP_PREDICT_ROUTE={variables.predict} is a route of this router already; choose another")
    is_health_known = variables.health in ("", *(route.path for route in probes.routes()))
    if variables.health in taken and not is_health_known:
        raise ConfigError(f"AIP_HEALTH_ROUTE={variables.health} is a route of this router already; choose another")
    endpoints = {
        route.path: route.endpoint
        for route in routes
        if REQUIRED.get(f"POST {route.path}") is GENERATE and not route.path.startswith("/api/")
        if "POST" in (route.methods or ())
    }
    predictions = Predictions(gateway, endpoints)
    predict = with_dialect_errors(OPENAI, predictions.predict, gateway.records, only_errors=True)
    found = [Route(variables.predict, predict, methods=["POST"])]
    if not is_health_known:
        found.append(Route(variables.health, probes.health, methods=["GET"]))
    return found


@contextlib.asynccontextmanager
async def _lifespan(gateway: Gateway, exporter: Exporter, page: ChatPage | None) -> AsyncIterator[None]:
    exporter.start()
    gateway.pool.nodes.look()
    starting = asyncio.create_task(gateway.pool.exchange.load_on_startup(lone=gateway.autoload))
    try:
        yield
    finally:
        exporter.stop()
        starting.cancel()
        await asyncio.wait({starting})
        if page:
            await page.close()
        await gateway.pool.close()
        gateway.records.settle()
        gateway.upstream.close()
