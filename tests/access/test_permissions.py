"""What each route needs: every route is in the table. B-T3"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from starlette.responses import Response
from starlette.routing import Route

from router.access.permissions import ADMIN, GENERATE, OPEN, READ, REQUIRED, Permission, PermissionTable, RoutePattern
from tests.access.guards import APP, CHAT, TABLE

# What an admin key guards, said here once more: a line that is moved in the table is moved here too, or nowhere.
GUARDED = {
    "GET /models/{name:path}/log",
    *("POST /models", "DELETE /models", "POST /models/load", "POST /models/unload", "POST /models/reload"),
    *("POST /props", "POST /slots/{slot}", "POST /lora-adapters", "POST /models/{name:path}/pin"),
    *("POST /api/push", "DELETE /router/requests/{id:path}"),
    *("POST /api/pull", "POST /api/create", "POST /api/copy", "DELETE /api/delete", "POST /api/blobs/{digest}"),
}


HARMLESS = {"POST /api/show", "POST /v1/streams/lookup"}


def table(*more: Route) -> PermissionTable:
    routes = (*APP.routes, *more)
    return PermissionTable([RoutePattern(route.methods or (), route.path, route.path_regex) for route in routes])


def every_route() -> Iterator[tuple[str, str, str]]:
    """Method and path as they are written, and a path that they match."""
    for route in APP.routes:
        target = re.sub(r"\{[^}]*\}", "x", route.path.replace("{name:page_file}", "x.js"))
        for method in sorted(route.methods or ()):
            yield method, route.path, target


# Probes, and the files of the pages.
OPEN_PATHS = ("/health", "/v1/health", "/readyz", "/livez", "/index.html", "/router", "/router/")
DASHBOARD = re.compile(r"/router/(app|data|panel|vendor)\.js|/router/style\.css|/router/vendor\.txt")


def test_every_route_is_in_the_table() -> None:  # B-T3
    """Written by hand here as well, so far as it matters."""
    routes = {f"{method} {path}" for method, path, _ in every_route()}
    assert REQUIRED.keys() <= routes  # no row is left of a route that is gone
    for method, path, target in every_route():
        row = f"{method} {path}" if method != "HEAD" or f"HEAD {path}" in REQUIRED else f"GET {path}"
        need = table().required(method, target, b"")
        assert need == REQUIRED[row]
        assert (need is ADMIN) == (row in GUARDED), row
        if method in ("GET", "HEAD") and row not in GUARDED:
            assert need <= READ
            assert (need is OPEN) == (path in OPEN_PATHS or DASHBOARD.fullmatch(path) is not None)
        elif row not in GUARDED:
            assert need is (READ if row in HARMLESS else GENERATE), row


def test_route_without_a_row_is_an_error() -> None:  # B-T3
    async def endpoint(request: object) -> Response:
        return Response()

    for route in (Route("/new", endpoint), Route("/models/{name}/erase", endpoint, methods=["POST"])):
        with pytest.raises(LookupError, match=re.escape(route.path)):
            table(route)
    with pytest.raises(LookupError, match="PUT /models"):
        table(Route("/models", endpoint, methods=["PUT"]))


@pytest.mark.parametrize(
    ("method", "path", "need"),
    [
        ("POST", "/models/load\n", ADMIN),  # a pattern's end matches before it, and so does the application's
        ("POST", "/models/unload\n", ADMIN),
        ("POST", "/slots/7\n", ADMIN),
        ("POST", "/models/load/", READ),  # no route: it is sent on
        ("PUT", "/models/load", READ),  # nor this: 405
        ("GET", "/v1/models/models/load", READ),
        ("GET", "/nowhere", READ),
        ("POST", "//models/load", READ),
        ("OPTIONS", "/models/load", READ),
        ("GET", "/health\n", OPEN),
        ("PUT", "/health", OPEN),
        ("GET", "/health/", READ),
        ("HEAD", "/models", READ),
        ("HEAD", "/api/blobs/sha256:0", READ),
    ],
)
def test_permission_of_paths_close_to_routes(method: str, path: str, need: Permission) -> None:
    assert table().required(method, path, b"") == need


QUERIES = {
    "reload=1": ADMIN,
    "reload=0": ADMIN,  # any word reloads
    "a=b&reload=x": ADMIN,
    "%72eload=1": ADMIN,
    "reload=&reload=1": ADMIN,
    "reload=1&reload=": ADMIN,
    "reload": READ,
    "reload=": READ,
    "xreload=1": READ,
    "autoload=1": GENERATE,
    "autoload=true": GENERATE,
    "autoload=0&autoload=1": GENERATE,
    "autoload=0": READ,
    "autoload=false": READ,
    "model=a": READ,
    "model=a;reload=1": READ,
}


@pytest.mark.parametrize("query", QUERIES)
def test_queries_with_effects(query: str) -> None:  # B-T1 B-T3
    for method in ("GET", "HEAD"):
        for path in ("/models", "/v1/models", "/slots", "/props"):
            assert table().required(method, path, query.encode()) == QUERIES[query]
    assert table().required("POST", CHAT, query.encode()) == GENERATE


def test_permission_of_requests_that_only_read() -> None:
    """The examples above are about the right routes."""
    for method, path, query, need in (
        ("GET", "/models", b"", READ),
        ("GET", "/models", b"reload=", READ),
        ("GET", "/slots", b"autoload=0", READ),
        ("GET", "/slots", b"autoload=1", GENERATE),
        ("GET", "/models", b"autoload=1&reload=1", ADMIN),
        ("POST", CHAT, b"reload=1", GENERATE),
    ):
        assert TABLE.required(method, path, query) == need
