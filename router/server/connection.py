"""The connection of one client, with the fast path: it answers small requests to running models by itself.

A request takes the fast path if its model runs, a connection to the child is open, and the response comes whole. Then
there is no task, no coroutine and no ASGI message, and the head is parsed only if it was not seen before. The shortest
way of all is that of a `small_request`, whose body says nothing to the router but the name of its model; others are a
`ProxiedRequest` from the start. Every other request takes the ordinary way through uvicorn and ASGI. A request can
change from a shorter way to a longer one at any point, and then goes on from there: nothing is sent twice.

`serve` gives this class to uvicorn.
"""

from __future__ import annotations

import logging
import math
from time import monotonic
from typing import Any

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from router.proxy.head import parse_head, with_host_of
from router.proxy.plain import PlainRoute
from router.proxy.proxied_request import ProxiedRequest
from router.records.running import DEFECT
from router.records.small import Ended, Kind
from router.server.clients import ClientAddresses
from router.server.fast_path import CachedRoute, FastPathApp, came_over_loopback
from router.server.framing import FramedConnection, Phase
from router.server.head_checks import has_plain_lines, is_too_long, without_upgrade
from router.server.small_request import SmallRequest
from router.wire.head_cache import split_message
from router.wire.headers import Headers

log = logging.getLogger("router.connection")


class ClientConnection(FramedConnection):
    """Tries the fast path for each request.

    `_small` or `_in_flight` is the request that is on it: sent to the child, while its response has not come whole.
    """

    def __init__(self, config: Config, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        assert isinstance(config.app, FastPathApp)
        self._fast_path = config.app
        self._records = config.app.records
        self._in_flight: ProxiedRequest | None = None
        self._in_flight_data = b""  # its bytes, for the change to the ordinary way
        self._in_flight_keep_alive = False
        self._small = SmallRequest(self)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]} in_flight={self._in_flight}>"

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._is_local = came_over_loopback(self.server)
        self._addresses = ClientAddresses(self.config, self.client)
        self._records.small.sources.add(self)
        self._cached_routes = self._fast_path.cached_routes[self._is_local]

    def on_headers_complete(self) -> None:
        self.headers[:] = with_host_of(self.url, self.headers)
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._records.small.sources.discard(self)
        if self._small.is_under_way:
            self._small.ordinary()
        self._small.forget()
        if self._in_flight is not None:
            self.show_request()
            request, self._in_flight = self._in_flight, None
            request.abort()

    def _take_head(self, data: bytes) -> int:
        taken = self._take_fast_path(data)
        return super()._take_head(data) if taken is None else taken

    def _take_fast_path(self, data: bytes) -> int | None:
        """Begins a request on the fast path.

        Returns how many bytes it has; 0 if they are buffered until all have come; None for the ordinary way.
        """
        message = split_message(data)
        if message is None:
            return None
        key, length, body = message
        if length > HIGH_WATER_LIMIT:
            return None
        end = len(data) - len(body)
        try:
            route = self._cached_routes[key]
        except KeyError:
            route = self._find_route(data[:end], length)
            self._cached_routes.remember(key, route)
        if route is None:
            return None
        end += length
        if len(data) < end:
            self._buffer_until(end, data)
            return 0
        if len(data) > end:
            data, body = data[:end], body[:length]
        request = None
        try:
            if self._records.tracer is None and self._small.begin(route, body):
                self._phase, self._deadline, self._has_begun = Phase.RESPONSE, math.inf, False
                self._in_flight_data, self._in_flight_keep_alive = data, route.keep_alive
                return end
            request = route.endpoint.try_now(route.head, body)
            if request is not None and self._records.tracer is not None:  # it makes ids that the child gets
                request.begin_running(self._records, self._addresses.of(route.head))
            is_on_fast_path = request is not None and request.send() and request.on_complete(self._on_response)
        except Exception as exc:  # else uvloop would close the connection
            log.critical("a defect in the router", exc_info=exc)
            if request is not None:
                request.forget_record(self._records)  # the ordinary way makes one
                request.abort()
            return None
        if request is None:
            return None
        request.began = monotonic()
        self._phase, self._deadline, self._has_begun = Phase.RESPONSE, math.inf, False
        self._in_flight, self._in_flight_data, self._in_flight_keep_alive = request, data, route.keep_alive
        if not is_on_fast_path:
            self._fall_back_to_asgi()
        return end

    def _find_route(self, head: bytes, length: int) -> CachedRoute | None:
        """The endpoint for requests with this head, None for the ordinary way."""
        if is_too_long(head) or not has_plain_lines(head):
            return None
        parsed = parse_head(without_upgrade(head), length)
        if parsed is None:
            return None
        found = self._fast_path.inner_head(parsed[0])
        endpoint = self._fast_path.endpoint_for(found, self._is_local) if found else None
        return CachedRoute(found, endpoint, parsed[1], {}) if found and endpoint else None

    # Small requests

    def can_answer_small(self) -> Headers | None:
        return None if self.flow.write_paused else self.server_state.default_headers

    def answer_small(self, route: PlainRoute, id: bytes, lines: bytes, status: int, body: bytes, began: float) -> None:
        self._in_flight_data = b""
        keep_alive = self._in_flight_keep_alive and not self._is_last_response
        close = b"" if keep_alive else b"connection: close\r\n"
        first = (STATUS_LINE[status], lines, id, id, close, len(body), body)
        self.transport.write(b"%b%b%b\r\nrequest-id: %b\r\n%bcontent-length: %d\r\n\r\n%b" % first)
        self._complete_response(keep_alive)
        head = route.head
        client = self._addresses.of(head) if head.forwarded_for else self._addresses.name
        self._records.small.end((route.kind, id, client, status, body, began, monotonic()))

    def end_small(self, exc: Exception) -> None:
        log.critical("a defect in the router", exc_info=exc)
        self.transport.close()

    def take_over(self, request: ProxiedRequest) -> None:
        """A small request goes on as this one."""
        self._in_flight = request
        request.on_complete(self._on_response)

    def _on_response(self) -> None:
        """The child's answer has come whole, or it is known that it does not."""
        request = self._in_flight
        assert request is not None
        try:
            response = None if self.flow.write_paused else request.take_response()
            if response is None:
                self._fall_back_to_asgi()
            else:
                self._in_flight, self._in_flight_data = None, b""
                self._send_response(self._in_flight_keep_alive and not self._is_last_response, *response)
                if request.running is None:
                    self._records.small.end(self._ended(request, response[0], response[2]))
        except Exception as exc:  # else the child's connection would be closed, and the client would wait for ever
            log.critical("a defect in the router", exc_info=exc)
            request.begin_running(self._records, self._addresses.of(request.head))
            request.abort(DEFECT)
            self.transport.close()

    def _ended(self, request: ProxiedRequest, status: int, body: bytes) -> Ended:
        head = request.head
        kind = Kind(head, request.model, request.dialect.name, request.is_background)
        client = self._addresses.of(head) if head.forwarded_for else self._addresses.name
        return kind, request.id, client, status, body, request.began, monotonic()

    @property
    def request_began(self) -> float:
        if self._small.is_under_way:
            return self._small.began
        return self._in_flight.began if self._in_flight is not None else 0.0

    def show_request(self) -> None:
        """The request that is in flight gets a `Running`."""
        if self._small.is_under_way:
            self._small.ordinary()
        if (request := self._in_flight) is not None:
            request.begin_running(self._records, self._addresses.of(request.head))

    def _fall_back_to_asgi(self) -> None:
        """Gives the request that is in flight to uvicorn. uvicorn parses its bytes, and then `app_for_request` hands
        over what has been begun."""
        assert self._in_flight is not None
        self.show_request()
        self._in_flight.forget_callback()
        self._phase = Phase.HEAD
        self._feed_uvicorn(without_upgrade(self._in_flight_data))

    def app_for_request(self, app: ASGIApp) -> ASGIApp:
        if self._in_flight is None:
            return app
        request, self._in_flight, self._in_flight_data = self._in_flight, None, b""
        return self._fast_path.fallen_back(request)

    def _send_response(self, keep_alive: bool, status: int, lines: bytes, body: bytes) -> None:
        own = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        close = b"" if keep_alive else b"connection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[status], own, lines, close, length, body)))
        self._complete_response(keep_alive)

    def _complete_response(self, keep_alive: bool) -> None:
        if not keep_alive:
            self.close_after_response()
        self.on_response_complete()
