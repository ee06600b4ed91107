"""`GET /metrics`: the router's metrics for Prometheus, or with `?model=` those of that model's engine as they are."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from router.api.dialects import OPENAI
from router.metrics.exporter import Exporter
from router.metrics.exposition import accepted
from router.proxy.endpoints import model_from_query, with_dialect_errors
from router.proxy.gateway import Gateway


class MetricsEndpoint:
    def __init__(self, gateway: Gateway, exporter: Exporter) -> None:
        self._exporter = exporter
        self._of_model = model_from_query(gateway, OPENAI)

    def routes(self) -> list[Route]:
        return [Route("/metrics", with_dialect_errors(OPENAI, self.metrics), methods=["GET"])]

    async def metrics(self, request: Request) -> Response:
        """In the format that the client's `Accept` asks for."""
        if "model" in request.query_params:
            return await self._of_model(request)
        form = accepted(",".join(request.headers.getlist("accept")))
        return StreamingResponse(self._exporter.scrape(form), media_type=form.value, headers={"vary": "Accept"})
