"""`GET /router/requests`: the requests that run and the last that have ended. `DELETE /router/requests/{id}` ends one.

Whoever may read sees all records: they hold no content, and no id that opens anything. Only an admin key ends requests,
anybody's; who made a request ends it by leaving.
"""

from __future__ import annotations

from itertools import chain, islice

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.api.dashboard.entries import encode
from router.api.dashboard.query import number, query_of
from router.api.dialects import OPENAI
from router.errors import InvalidRequest, UnknownRequest
from router.proxy.endpoints import with_dialect_errors
from router.proxy.gateway import Gateway
from router.records.records import MAX_ENDED

FLAGS = {"0": False, "1": True, "false": False, "true": True}


class RequestEndpoints:
    def __init__(self, gateway: Gateway) -> None:
        self._pool = gateway.pool
        self._records = gateway.records

    def routes(self) -> list[Route]:
        own = (("/router/requests", "GET", self.list), ("/router/requests/{id:path}", "DELETE", self.stop))
        return [Route(path, with_dialect_errors(OPENAI, endpoint), methods=[method]) for path, method, endpoint in own]

    async def list(self, request: Request) -> Response:
        query = query_of(request, ("model", "errors", "limit"))
        limit, errors = number(query, "limit", MAX_ENDED, least=1), FLAGS.get(query.get("errors", "0"))
        if errors is None:
            raise InvalidRequest("errors is 1 for requests with an error alone, or 0 for all")
        names: set[str] = set()
        if name := query.get("model"):
            spec = self._pool.catalog.find(name)
            names = {name, spec.name if spec else name}  # it may have left the catalog, or never have been there
        found = (
            record
            for record in chain(self._records.running(), self._records.ended())
            if (record.error or not errors) and (not names or (record.model or record.asked) in names)
        )
        entries = [record.as_json() for record in islice(found, limit)]
        return Response(encode({"requests": entries}), media_type="application/json")

    async def stop(self, request: Request) -> Response:
        id = request.path_params["id"]
        if not self._records.stop(id):
            raise UnknownRequest(f"No request with the id {id[:80]!a} runs or waits; GET /router/requests lists all.")
        return JSONResponse({"id": id, "stopped": True})
