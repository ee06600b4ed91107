"""Questions of load balancers, service managers and containers: does the router live, and may it get new clients?

Nobody needs a key to ask. `app` makes the one Probes.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.pool.catalog_exchange import CatalogExchange

RETRY_AFTER_S = 5
LOADING = {"code": 503, "message": "Loading model", "type": "unavailable_error"}  # as llama-server says it
DRAINING = "The router is shutting down, and takes no new clients."


class Probes:
    """`is_draining`: whether the router is about to end. `exchange` knows which models load at the start.

    `/livez` is 200 for as long as the router can answer. `/readyz` is 503 until the models that are to be loaded on
    startup have been, or have failed, and again as soon as the router is about to end. `/health` is llama-server's: it
    is 503 while the only model loads, and when clients should wait, and many programs ask only there. A request is
    taken all the same, and waits.
    """

    def __init__(self, is_draining: Callable[[], bool], exchange: CatalogExchange) -> None:
        self._is_draining = is_draining
        self._exchange = exchange

    def routes(self) -> list[Route]:
        health = [Route(path, self.health, methods=["GET"]) for path in ("/health", "/v1/health")]
        return [*health, Route("/readyz", self.ready, methods=["GET"]), Route("/livez", self.live, methods=["GET"])]

    async def live(self, request: Request) -> Response:
        return _ok()

    async def health(self, request: Request) -> Response:
        if self._is_draining():
            return _draining()
        return JSONResponse({"error": LOADING}, 503) if self._exchange.is_lone_starting else _ok()

    async def ready(self, request: Request) -> Response:
        if self._is_draining():
            return _draining()
        return _unavailable("loading", LOADING) if self._exchange.is_starting else _ok()


def _ok() -> Response:
    return JSONResponse({"status": "ok"})


def _draining() -> Response:
    return _unavailable("draining", {"code": 503, "message": DRAINING, "type": "unavailable_error"})


def _unavailable(status: str, error: object) -> Response:
    return JSONResponse({"status": status, "error": error}, 503, {"retry-after": str(RETRY_AFTER_S)})
