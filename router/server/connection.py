"""The connection of one client, which answers by itself what needs no waiting but for the child.

A small request to a model that runs, over a connection to its child that is open, and whose answer comes whole, meets
no task, no coroutine and no message of ASGI's, and its head is parsed only if it is another one than those before.
Whatever is otherwise is given to uvicorn as it came, and goes the ordinary way from the point at which it is.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from router.proxy.head import parse_head, with_host_of
from router.proxy.proxied_request import ProxiedRequest
from router.server.fast_path import CachedRoute, FastPathApp, came_over_loopback
from router.server.framing import HEAD_BYTES, HEAD_LINES, FramedConnection, Phase, is_plain, without_offers
from router.wire.head_cache import split_message

log = logging.getLogger("router.connection")


class Connection(FramedConnection):
    """Each request is tried here first."""

    def __init__(self, config: Config, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        assert isinstance(config.app, FastPathApp)
        self._direct = config.app
        self._begun: tuple[bytes, CachedRoute, ProxiedRequest] | None = None  # its answer has not come whole yet

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._is_local = came_over_loopback(self.server)
        self._entrances = self._direct.cached_routes[self._is_local]

    def on_headers_complete(self) -> None:
        self.headers[:] = with_host_of(self.url, self.headers)
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._begun is not None:
            (_, _, passage), self._begun = self._begun, None
            passage.abort()

    def _take_head(self, data: bytes) -> int:
        taken = self._begin(data)
        return super()._take_head(data) if taken is None else taken

    def _begin(self, data: bytes) -> int | None:
        """Begin a request that is answered here: how many bytes it has, 0 if these are kept until all have come. None
        for another request."""
        found = split_message(data)
        if found is None:
            return None
        known, length, body = found
        if length > HIGH_WATER_LIMIT:
            return None
        end = len(data) - len(body)
        try:
            entrance = self._entrances[known]
        except KeyError:
            entrance = self._entrance(data[:end], length)
            self._entrances.remember(known, entrance)
        if entrance is None:
            return None
        end += length
        if len(data) < end:
            self._keep(data, end)
            return 0
        if len(data) > end:
            data, body = data[:end], body[:length]
        passage = None
        try:
            passage = entrance.endpoint.try_now(entrance.head, body)
            is_awaited = passage is not None and passage.send() and passage.on_complete(self._arrived)
        except Exception as exc:  # the connection would be closed for it
            log.critical("a defect in the router", exc_info=exc)
            if passage is not None:
                passage.abort()
            return None
        if passage is None:
            return None
        self._phase, self._deadline, self._is_timed = Phase.ANSWER, math.inf, False
        self._begun = data, entrance, passage
        if not is_awaited:
            self._hand_over()
        return end

    def _entrance(self, head: bytes, length: int) -> CachedRoute | None:
        if len(head) > HEAD_BYTES or head.count(b"\n") > HEAD_LINES or not is_plain(head):
            return None
        found = parse_head(without_offers(head), length)
        by_body = self._direct.endpoint_for(found[0], self._is_local) if found else None
        return CachedRoute(found[0], by_body, keep_alive=found[1]) if found and by_body else None

    def _arrived(self) -> None:
        assert self._begun is not None
        _, entrance, passage = self._begun
        try:
            whole = None if self.flow.write_paused else passage.take_response()
            if whole is None:
                self._hand_over()
            else:
                self._begun = None
                self._answer(entrance.keep_alive and not self._is_last, *whole)
        except Exception as exc:  # which the child's connection would be closed for, and the client wait for ever
            log.critical("a defect in the router", exc_info=exc)
            passage.abort()
            self.transport.close()

    def _hand_over(self) -> None:
        """To uvicorn: the ordinary way, with what has been begun."""
        assert self._begun is not None
        (data, _, passage), self._begun = self._begun, None
        passage.forget_callback()
        self._phase = Phase.HEAD
        self.app = self._direct.with_error_handler(passage)
        try:
            self._feed(without_offers(data))
        finally:
            self.app = self._direct

    def _answer(self, keep_alive: bool, status: int, lines: bytes, body: bytes) -> None:
        own = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        close = b"" if keep_alive else b"connection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[status], own, lines, close, length, body)))
        if not keep_alive:
            self._close_behind_answer()
        self.on_response_complete()
