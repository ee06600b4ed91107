"""The connection of one client: uvicorn's, which answers by itself what needs no waiting but for the child.

A request that comes in one piece, or whose body is no longer than what uvicorn holds of one, to a model that runs, over
a connection to its child that is open, and whose answer comes whole, meets no task, no coroutine and no message of
ASGI's. Whatever is otherwise goes the ordinary way, from the point at which it is.
"""

from __future__ import annotations

import logging
import math
import re
from typing import Any

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from router.api.proxy import Passage
from router.app import Direct
from router.upstream import Headers

log = logging.getLogger("router.connection")


class Connection(HttpToolsProtocol):
    """Deaf to offers of another protocol, as RFC 9110 section 7.8 allows: uvicorn would take the body of such a request
    for that protocol's. Java's HTTP client offers HTTP/2 with whatever it sends."""

    _AHEAD = 8  # requests that may wait for the one that is answered, before nothing more is read
    _START = re.compile(rb"[A-Z]+ \S+ HTTP/1\.1\r\n")
    _OFFER = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)

    def __init__(self, config: Config, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        assert isinstance(config.app, Direct)
        self._direct = config.app
        self._served: RequestResponseCycle | None = None
        self._unread: tuple[RequestResponseCycle, Any] | None = None  # its body has not come yet
        self._begun: tuple[RequestResponseCycle, Passage] | None = None  # its answer has not come whole yet
        self._idle_since = math.inf

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            end = max(0, data.find(b"\r\n\r\n"))
            if self._OFFER.search(data, 0, end) and self._START.match(data):
                data = self._OFFER.sub(b"", data[:end]) + data[end:]
        super().data_received(data)
        if self._unread is not None and _is_long(self._unread[0]):
            (cycle, app), self._unread = self._unread, None
            super()._start_asgi_task(cycle, app)
        if self._begun is not None and len(self.pipeline) < self._AHEAD:
            self.flow.resume_reading()  # else nobody would hear the client leave

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # When the head has come, or the answer before it has gone.
        self._served = cycle
        if cycle.more_body and not cycle.waiting_for_100_continue:
            self._unread = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._unread is None:
            return
        (cycle, app), self._unread = self._unread, None
        passage = None
        try:
            passage = self._direct.passage(cycle.scope, bytes(cycle.body))  # type: ignore[arg-type]
            if passage is None:
                super()._start_asgi_task(cycle, app)
            elif passage.begin() and passage.await_whole(self._arrived):
                self._begun = cycle, passage
                self.flow.resume_reading()  # a long body has paused it
            else:
                self._go_on(cycle, passage)
        except Exception as exc:  # which the parser would take for a fault of the client's
            log.critical("a defect in the router", exc_info=exc)
            if passage is not None:
                passage.leave()
            super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._served is not None and not self._served.response_complete:  # uvicorn tells the latest one alone
            self._served.disconnected = True
            self._served.message_event.set()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if self._begun is not None:
            (_, passage), self._begun = self._begun, None
            passage.leave()

    # Instead of uvicorn's two timers a request there is one a connection, which looks at the clock when it comes.

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = math.inf

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._close_when_idle(self.timeout_keep_alive)

    def _close_when_idle(self, after: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(after, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            super().timeout_keep_alive_handler()
        elif left < math.inf:
            self._close_when_idle(left)

    # An answer without a task

    def _arrived(self) -> None:
        assert self._begun is not None
        (cycle, passage), self._begun = self._begun, None
        try:
            whole = None if self.flow.write_paused else passage.whole()
            if whole is None:
                self._go_on(cycle, passage)
            else:
                self._answer(cycle, *whole)
        except Exception as exc:  # which the child's connection would be closed for, and the client wait for ever
            log.critical("a defect in the router", exc_info=exc)
            passage.leave()
            self.transport.close()

    def _go_on(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:
        super()._start_asgi_task(cycle, self._direct.guarded(app))  # type: ignore[arg-type]

    def _answer(self, cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> None:
        headers = [*self.server_state.default_headers, *(h for h in headers if h[0] != b"content-length")]
        lines = [b"%b: %b\r\n" % header for header in headers]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        self.transport.write(b"".join((STATUS_LINE[status], *lines, b"content-length: %d\r\n\r\n" % len(body), body)))
        cycle.response_started = cycle.response_complete = True
        cycle.on_response = _nothing  # as uvicorn does: it holds this object, which holds the cycle
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


def _is_long(cycle: RequestResponseCycle) -> bool:
    """More of the body has come, or will, than uvicorn holds."""
    length: bytes = dict(cycle.scope["headers"]).get(b"content-length", b"0")
    return max(len(cycle.body), int(length)) > HIGH_WATER_LIMIT


def _nothing() -> None:
    pass
