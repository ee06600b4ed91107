"""The connection of one client: uvicorn's, which answers by itself what needs no waiting but for the child.

A small request to a model that runs, over a connection to its child that is open, and whose answer comes whole, meets
no task, no coroutine and no message of ASGI's, and its head is parsed only if it is another one than those before.
Whatever is otherwise is given to uvicorn as it came, and goes the ordinary way from the point at which it is.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from router.api.head import read, with_host_of
from router.api.proxy import Passage
from router.app import Direct, Entrance, came_over_loopback
from router.heads import message

log = logging.getLogger("router.connection")

_LONGEST_START = 16 * 1024  # bytes of a head that are held until it is whole
_START = re.compile(rb"(?:\r\n)*[A-Z]+ \S+ HTTP/1\.1\r\n")
_OFFER = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


class Connection(HttpToolsProtocol):
    """Deaf to offers of another protocol, as RFC 9110 section 7.8 allows: uvicorn would take the body of such a request
    for that protocol's. Java's HTTP client offers HTTP/2 with whatever it sends."""

    def __init__(self, config: Config, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        assert isinstance(config.app, Direct)
        self._direct = config.app
        self._served: RequestResponseCycle | None = None
        self._is_between = True  # two requests, as far as the parser knows
        self._parts: list[bytes] = []  # of a request
        self._missing = 0  # bytes of it, at least
        self._begun: tuple[bytes, Entrance, Passage] | None = None  # its answer has not come whole yet
        self._idle_since = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._is_local = came_over_loopback(self.server)
        self._entrances = self._direct.entrances[self._is_local]

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = self._given()
        if self._begun is not None:
            self._go_on()
        if not (self._is_free() and self._begin(data)):
            self._hand_over(data)

    def _is_free(self) -> bool:
        """Neither a request nor an answer is under way."""
        return self._is_between and (self.cycle is None or self.cycle.response_complete)

    def _hold(self, data: bytes, missing: int) -> bool:
        """Until so many bytes more have come."""
        self._idle_since = math.inf
        self._parts.append(data)
        self._missing = missing
        return True

    def _given(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self._missing = 0
        return data

    def _hand_over(self, data: bytes) -> None:
        """To uvicorn."""
        super().data_received(_without_offers(data) if self._is_free() else data)

    def _unsupported_upgrade_warning(self) -> None:
        # An offer that came in pieces or behind another request. Its body would be read as the next request.
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_begin(self) -> None:
        self._is_between = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.headers[:] = with_host_of(self.url, self.headers)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_between = True
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app if cycle.scope["http_version"] == "1.1" else _unchunked(cycle, app))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._served is not None and not self._served.response_complete:  # uvicorn tells the latest one alone
            self._served.disconnected = True
            self._served.message_event.set()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if self._begun is not None:
            (_, _, passage), self._begun = self._begun, None
            passage.leave()

    def shutdown(self) -> None:
        if self._begun is not None:
            self._go_on()
        elif self._missing:
            self._hand_over(self._given())
        super().shutdown()

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

    def _begin(self, data: bytes) -> bool:
        """Whether this is a request that is answered here, as far as can be told before all of it has come."""
        found = message(data)
        if found is None:
            is_cut = len(data) < _LONGEST_START and b"\r\n\r\n" not in data and _START.match(data)
            return bool(is_cut) and self._hold(data, 1)
        known, length, body = found
        if len(body) > length or length > HIGH_WATER_LIMIT:
            return False
        try:
            entrance = self._entrances[known]
        except KeyError:
            entrance = self._entrance(data[: len(data) - len(body)], length)
            self._entrances.learn(known, entrance)
        if entrance is None:
            return False
        if len(body) < length:
            return self._hold(data, length - len(body))
        self._idle_since = math.inf
        passage = None
        try:
            passage = entrance.by_body.at_once(entrance.head, body)
            is_awaited = passage is not None and passage.begin() and passage.await_whole(self._arrived)
        except Exception as exc:  # the connection would be closed for it
            log.critical("a defect in the router", exc_info=exc)
            if passage is not None:
                passage.leave()
            return False
        if passage is None:
            return False
        self._begun = data, entrance, passage
        if not is_awaited:
            self._go_on()
        return True

    def _entrance(self, head: bytes, length: int) -> Entrance | None:
        found = read(_without_offers(head), length)
        by_body = self._direct.by_body(found[0], self._is_local) if found else None
        return Entrance(found[0], by_body, keep_alive=found[1]) if found and by_body else None

    def _arrived(self) -> None:
        assert self._begun is not None
        _, entrance, passage = self._begun
        try:
            whole = None if self.flow.write_paused else passage.whole()
            if whole is None:
                self._go_on()
            else:
                self._begun = None
                self._answer(entrance.keep_alive, *whole)
        except Exception as exc:  # which the child's connection would be closed for, and the client wait for ever
            log.critical("a defect in the router", exc_info=exc)
            passage.leave()
            self.transport.close()

    def _go_on(self) -> None:
        """The ordinary way, with what has been begun."""
        assert self._begun is not None
        (data, _, passage), self._begun = self._begun, None
        passage.await_nothing()
        self.app = self._direct.guarded(passage)
        try:
            self._hand_over(data)
        finally:
            self.app = self._direct

    def _answer(self, keep_alive: bool, status: int, lines: bytes, body: bytes) -> None:
        own = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        close = b"" if keep_alive else b"connection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[status], own, lines, close, length, body)))
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()


def _unchunked(cycle: RequestResponseCycle, app: ASGIApp) -> Any:
    """HTTP/1.0, which nginx speaks to whoever is behind it, knows no chunks: an answer of which the length is not told
    ends with the connection. uvicorn would send it in chunks."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        is_told = True

        async def unchunked(message: MutableMapping[str, Any]) -> None:
            nonlocal is_told
            if message["type"] == "http.response.start":
                is_told = b"content-length" in dict(message["headers"])
            if not is_told:
                cycle.keep_alive = cycle.chunked_encoding = False
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, unchunked)

    return answer


def _without_offers(data: bytes) -> bytes:
    end = max(0, data.find(b"\r\n\r\n"))
    if _OFFER.search(data, 0, end) and _START.match(data):
        return _OFFER.sub(b"", data[:end]) + data[end:]
    return data
