"""Questions of load balancers, service managers and containers: does the router live, and may it get new clients?

Nobody needs a key to ask. `app` makes the one Probes.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

RETRY_AFTER_S = 5
LOADING = {"code": 503, "message": "Loading model", "type": "unavailable_error"}  # as llama-server says it
DRAINING = "The router is shutting down, and takes no new clients."


class Probes:
    """`is_draining`: whether the router is about to end.
    `is_loading`: whether the only model is being loaded for the first time.

    `/livez` is 200 for as long as the router can answer. `/readyz` becomes 503 as soon as the router is about to end.
    So does `/health`: llama-server's says 503 too when clients should wait, and many programs ask only there. While
    `is_loading` it is 503 as llama-server's is; a request is taken all the same, and waits.
    """

    def __init__(self, is_draining: Callable[[], bool], is_loading: Callable[[], bool] = lambda: False) -> None:
        self._is_draining = is_draining
        self._is_loading = is_loading

    def routes(self) -> list[Route]:
        health = [Route(path, self.health, methods=["GET"]) for path in ("/health", "/v1/health")]
        return [*health, Route("/readyz", self.ready, methods=["GET"]), Route("/livez", self.live, methods=["GET"])]

    async def live(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def health(self, request: Request) -> Response:
        if self._is_loading() and not self._is_draining():
            return JSONResponse({"error": LOADING}, 503)
        return await self.ready(request)

    async def ready(self, request: Request) -> Response:
        if not self._is_draining():
            return JSONResponse({"status": "ok"})
        error = {"code": 503, "message": DRAINING, "type": "unavailable_error"}
        headers = {"retry-after": str(RETRY_AFTER_S)}
        return JSONResponse({"status": "draining", "error": error}, 503, headers)
