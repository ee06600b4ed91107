"""Where records of requests begin on the ordinary way, and how an operator ends a request.

`endpoints.with_dialect_errors` begins the record of a request and ends it for each answer but that of a child; a
`ProxiedRequest` ends its own. On the fast path there is no endpoint: there a `ProxiedRequest` does both.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.errors import Stopped
from router.proxy.head import Head, request_id_of
from router.records.record import clean
from router.records.records import Records
from router.records.running import Running

KEY = "router.request"  # of an ASGI scope
ENGINE_ERROR = "engine_error"  # the engine's own error is the answer
DEFECT = "defect"
SHUTDOWN = "shutdown"  # the router ended in the middle of the answer
MAX_ADDRESS = 64


def begin(records: Records, scope: Scope, dialect: str) -> Running:
    head = Head.from_scope(scope)
    client = scope.get("client")
    address = clean(client[0], MAX_ADDRESS) if client and isinstance(client[0], str) else ""
    running = records.begin(request_id_of(head), head.shown_path, dialect, address, head.agent)
    running.trace = head.trace
    scope[KEY] = running
    return running


def name_model(scope: Scope, model: str) -> None:
    """The request of this scope is for this model of the catalog."""
    if (running := scope.get(KEY)) is not None:
        running.model = model


class StopOnRequest:
    """Ends its block with Stopped when an operator ends this request; None for a request without a record.

    It works as `CancelOnDisconnect` does, with the operator in place of the client::

        with StopOnRequest(running):
            await answer()
    """

    def __init__(self, running: Running | None) -> None:
        self._running = running
        self._has_stopped = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'stopped' if self._has_stopped else 'goes on'}>"

    def __enter__(self) -> None:
        if self._running is None:
            return
        if self._running.is_stopped:
            raise Stopped()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._running.stop_work = self._stop

    def _stop(self) -> None:
        if not self._has_stopped:
            self._has_stopped = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._running.stop_work = None
        if self._has_stopped and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise Stopped() from None


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


def kind_of_end(exc: BaseException) -> str:
    """The word for what ended a request, of an exception that is no RouterError."""
    return SHUTDOWN if isinstance(exc, asyncio.CancelledError) else DEFECT
