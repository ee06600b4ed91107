"""Where records of requests begin on the ordinary way, and end if no child has answered.

`endpoints.with_dialect_errors` begins the record of a request and ends it for each answer but that of a child; a
`ProxiedRequest` ends its own. On the fast path there is no endpoint: there a `ProxiedRequest` does both.
"""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.errors import RouterError, UnknownModel
from router.proxy.error_response import error_response
from router.proxy.head import Head, request_id_of
from router.proxy.protocols import Dialect
from router.records.record import clean
from router.records.records import Records
from router.records.running import LEFT, Running, kind_of_end

KEY = "router.request"  # of an ASGI scope
MAX_ADDRESS = 64


def begin(records: Records, scope: Scope, dialect: str) -> Running:
    head = Head.from_scope(scope)
    client = scope.get("client")
    address = clean(client[0], MAX_ADDRESS) if client and isinstance(client[0], str) else ""
    running = records.begin(request_id_of(head), head.shown_path, dialect, address, head.agent, head.trace)
    scope[KEY] = running
    return running


def name_model(scope: Scope, model: str) -> None:
    """The request of this scope is for this model of the catalog."""
    if (running := scope.get(KEY)) is not None:
        running.model = model


class RecordedResponse:
    """The router's own answer to a request that has a record. The record ends when it has been sent."""

    def __init__(self, response: Response, running: Running) -> None:
        self._response, self._running = response, running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        except BaseException as exc:
            self._running.end(500, kind_of_end(exc))
            raise
        self._running.end(self._response.status_code)


def refusal(dialect: Dialect, exc: RouterError, scope: Scope, running: Running | None) -> Response:
    """The answer to a request that is refused, which ends its record."""
    id = running.client_id if running is not None else request_id_of(Head.from_scope(scope))
    response = error_response(dialect, exc, id)
    if running is not None:
        running.asked = clean(exc.asked) if isinstance(exc, UnknownModel) else ""
        running.end(response.status_code, exc.kind)
    return response


def end_early(running: Running | None, exc: BaseException) -> None:
    """The request has no answer."""
    if running is not None and isinstance(exc, ClientDisconnect):
        running.end(LEFT)
    elif running is not None:
        running.end(500, kind_of_end(exc))
