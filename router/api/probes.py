"""Questions of load balancers, service managers and containers: does the router live, and may it get new clients?

Nobody needs a key to ask. `app` makes the one Probes.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

RETRY_AFTER_S = 5
DRAINING = "The router is shutting down, and takes no new clients."


class Probes:
    """`is_draining`: whether the router is about to end.

    `/livez` is 200 for as long as the router can answer. `/readyz` becomes 503 as soon as the router is about to end.
    So does `/health`: llama-server's says 503 too when clients should wait, and many programs ask only there.
    """

    def __init__(self, is_draining: Callable[[], bool]) -> None:
        self._is_draining = is_draining

    def routes(self) -> list[Route]:
        ready = [Route(path, self.ready, methods=["GET"]) for path in ("/health", "/v1/health", "/readyz")]
        return [*ready, Route("/livez", self.live, methods=["GET"])]

    async def live(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        if not self._is_draining():
            return JSONResponse({"status": "ok"})
        error = {"code": 503, "message": DRAINING, "type": "unavailable_error"}
        headers = {"retry-after": str(RETRY_AFTER_S)}
        return JSONResponse({"status": "draining", "error": error}, 503, headers)
