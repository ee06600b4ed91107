"""The data API: `/router/state`, `/router/events` and `/router/stream`, and `/models/{name}/pin`."""

from __future__ import annotations

import secrets

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.api.dashboard.board import Board
from router.api.dashboard.entries import encode
from router.api.dashboard.query import number, query_of
from router.api.dashboard.stream import Listeners, StateStream
from router.api.dialects import OPENAI
from router.errors import InvalidRequest
from router.events.journal import KEPT
from router.proxy.body import in_thread_if_large, json_object
from router.proxy.endpoints import with_dialect_errors
from router.proxy.gateway import Gateway

FORMATS = ("json", "jsonl")


class DashboardEndpoints:
    """`engine` is the kind of the router's own engine, `build` its version."""

    def __init__(self, gateway: Gateway, engine: str, build: str) -> None:
        self._gateway = gateway
        self._pool = gateway.pool
        self._board = Board(gateway.pool, gateway.records, engine, build)
        self._listeners = Listeners(self._board, gateway.pool.feed)
        self._tag = secrets.token_hex(4)  # revisions of another run of the router are others

    def routes(self) -> list[Route]:
        own = (
            ("/router/state", "GET", self.state),
            ("/router/events", "GET", self.events),
            ("/router/stream", "GET", self.stream),
            ("/models/{name:path}/pin", "POST", self.pin),
        )
        return [Route(path, with_dialect_errors(OPENAI, endpoint), methods=[method]) for path, method, endpoint in own]

    async def state(self, request: Request) -> Response:
        query_of(request, ())
        board = self._board
        board.refresh()
        tag = f'W/"{self._tag}-{board.revision}-{board.cursor.seq}"'  # weak: what runs with the clock is not in it
        headers = {"etag": tag, "cache-control": "no-cache"}
        if _has_tag(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        return Response(board.state(), media_type="application/json", headers=headers)

    async def events(self, request: Request) -> Response:
        query = query_of(request, ("since", "model", "limit", "format"))
        since, limit = number(query, "since", 0), number(query, "limit", KEPT, least=1)
        if (wanted := query.get("format", "json")) not in FORMATS:
            raise InvalidRequest(f"format is one of {', '.join(FORMATS)}")
        found = self._pool.journal.since(self._board.seq_before(since))
        if name := query.get("model"):
            spec = self._pool.catalog.find(name)
            id = spec.name if spec else name  # it may have left the catalog
            found = [entry for entry in found if entry.event.model == id]
        entries = [entry.as_json for entry in found[-limit:]]
        if wanted == "jsonl":
            lines = b"".join([encode(entry) + b"\n" for entry in entries])
            name = 'attachment; filename="llama-router-events.jsonl"'
            return Response(lines, media_type="application/x-ndjson", headers={"content-disposition": name})
        return Response(encode({"seq": self._pool.journal.seq, "events": entries}), media_type="application/json")

    async def stream(self, request: Request) -> Response:
        query = query_of(request, ("since",))
        since = number(query, "since", 0) if "since" in query else None
        if since is None and (last := request.headers.get("last-event-id", "")).isdecimal():
            since = number({"since": last}, "since", 0)  # as a browser's EventSource goes on by itself
        self._listeners.ensure_room()
        return StateStream(self._listeners, since)

    async def pin(self, request: Request) -> Response:
        """`{"pinned": true}` or `false`; null goes back to what the preset says."""
        spec = self._pool.catalog.resolve(request.path_params["name"])
        body = await self._gateway.read_body(request)
        fields = await in_thread_if_large(len(body), json_object, body)
        pinned = fields.get("pinned", "")
        if set(fields) != {"pinned"} or not (pinned is None or isinstance(pinned, bool)):
            raise InvalidRequest('send {"pinned": true}, false, or null for what the preset says')
        return JSONResponse({"model": spec.name, "pinned": self._pool.pins.set(spec, pinned)})


def _has_tag(header: str, tag: str) -> bool:
    """Whether an `If-None-Match` names this entity tag; weak ones are compared too (RFC 9110 section 13.1.2)."""
    names = [each.strip().removeprefix("W/") for each in header.split(",")]
    return "*" in names or tag.removeprefix("W/") in names
