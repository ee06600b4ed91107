"""A small request, from bytes to bytes: the shortest way of the fast path.

It is for a head that was seen before, a body that says nothing else than its model, a child that runs, and an answer
that comes in one piece. A connection has one `SmallRequest` and uses it again and again: no object is made for a
request but its bytes.

As soon as anything is different (the answer comes in pieces, it is an error, somebody wants to see what runs, the
client leaves), `ordinary` makes what the other ways have from the start, a `ProxiedRequest` with its lease and its
response, and it goes on as that. Nothing is sent twice.

`connection.ClientConnection` calls it from above, and `wire.connection.UpstreamConnection` from below, as it calls a
`Response`.
"""

from __future__ import annotations

from random import getrandbits
from time import monotonic
from typing import Protocol

from router.errors import UpstreamFailed
from router.pool.gate import Gate
from router.proxy.plain import PlainRoute
from router.proxy.proxied_request import ProxiedRequest
from router.proxy.routing import plain_fields
from router.server.fast_path import CachedRoute
from router.wire.connection import UpstreamConnection
from router.wire.headers import Headers
from router.wire.response import Response, known_answer

MAX_MODELS = 16  # whose routes are kept for one head


class Client(Protocol):
    """What it needs of the client's connection."""

    def can_answer_small(self) -> Headers | None:
        """The headers of each response; None if the client does not read what is written."""

    def answer_small(self, route: PlainRoute, id: bytes, lines: bytes, status: int, body: bytes, began: float) -> None:
        """Send the response. `lines` are as in `PlainRoute.response_lines`."""

    def take_over(self, request: ProxiedRequest) -> None:
        """It is no small request any more, and goes on as this one."""

    def end_small(self, exc: Exception) -> None:
        """There is no response."""


class SmallRequest:
    """::

    small = SmallRequest(client)
    if not small.begin(route, data, body):
        ...  # another way
    """

    __slots__ = ("_body", "_client", "_connection", "_gate", "_id", "_route", "_sent_at", "_ticket", "began")

    def __init__(self, client: Client) -> None:
        self._client: Client | None = client
        self._connection: UpstreamConnection | None = None  # while it is under way
        self._route: PlainRoute | None = None
        self._gate: Gate | None = None
        self._body = self._id = b""
        self._ticket = 0
        self._sent_at = 0.0
        self.began = 0.0  # by `time.monotonic`

    def __repr__(self) -> str:
        return f"<SmallRequest {self._route if self.is_under_way else 'of nothing'}>"

    @property
    def is_under_way(self) -> bool:
        return self._connection is not None

    def forget(self) -> None:
        """The client has left: no reference leads back to its connection."""
        self._client = self._route = self._gate = None

    def begin(self, cached: CachedRoute, body: bytes) -> bool:
        """Sends the request now. False if it has to take another way."""
        found = plain_fields(body)
        if found is None:
            return False
        fields, outline = found
        way = self._find(cached, fields.get("model"))
        if way is None:
            return False
        route, gate = way
        if len(body) > route.body_limit or not route.fits(gate, fields, outline):
            return False
        connection = route.take_connection()
        if connection is None:
            return False
        ticket = gate.enter(background=route.kind.is_background)
        if not ticket:
            route.give_back(connection)
            cached.plain_routes.clear()  # for other names too, it is time for another one
            return False
        self._gate = gate
        try:
            self._send(route, connection, ticket, body)
        except BaseException:
            self._connection = self._gate = None
            gate.leave(ticket)
            connection.abort()
            raise
        return True

    def _send(self, route: PlainRoute, connection: UpstreamConnection, ticket: int, body: bytes) -> None:
        self.began = monotonic()
        self._connection, self._route, self._ticket, self._body = connection, route, ticket, body
        self._sent_at = connection.loop.time()
        self._id = id = route.head.client_request_id or b"%016x" % getrandbits(64)
        data = b"%b%b\r\ncontent-length: %d\r\n\r\n%b" % (route.beginning, id, len(body), body)
        connection.carry(self, data, route.timeout)

    def _find(self, cached: CachedRoute, name: object) -> tuple[PlainRoute, Gate] | None:
        """The route for this name, if it is one."""
        if type(name) is not str and name is not None:
            return None
        routes = cached.plain_routes
        route = routes.get(name)
        gate = route.open_gate() if route is not None else None
        if gate is None:
            route = cached.endpoint.plain_route(cached.head, name)
            gate = route.open_gate() if route is not None else None
        if route is None or gate is None:
            routes.pop(name, None)
            return None
        if name not in routes and len(routes) >= MAX_MODELS:
            routes.clear()
        routes[name] = route
        return route, gate

    def ordinary(self) -> Response:
        """It goes on as a `ProxiedRequest`. Returns what takes the answer now."""
        connection, route, gate, client = self._connection, self._route, self._gate, self._client
        assert connection is not None
        assert route is not None
        assert gate is not None
        assert client is not None
        self._connection = self._gate = None
        response = connection.as_response(route.timeout, self._sent_at)
        request = route.ordinary(gate, self._ticket, self._id, self._body, response)
        request.began, self._body = self.began, b""
        client.take_over(request)
        return response

    # For the connection to the child

    def feed(self, data: bytes) -> None:
        connection, route, gate, client = self._connection, self._route, self._gate, self._client
        assert connection is not None
        assert route is not None
        assert gate is not None
        assert client is not None
        found, own_headers = known_answer(connection, data), client.can_answer_small()
        lines = route.response_lines(found[0], own_headers) if found and own_headers is not None else None
        if found is None or lines is None:
            self.ordinary().feed(data)
            return
        head, body = found
        self._connection = self._gate = None
        self._body = b""
        # First the connection, then the ticket, then the client, who may send its next request at once.
        try:
            connection.release(not head.is_last)
            gate.leave(self._ticket)
            client.answer_small(route, self._id, lines, head.status, body, self.began)
        except Exception as exc:  # else the client would wait for ever
            client.end_small(exc)

    def on_connection_lost(self, is_reused: bool) -> None:
        self.ordinary().on_connection_lost(is_reused)

    def check_silence(self) -> float:
        return self.ordinary().check_silence()

    def fail(self, error: UpstreamFailed) -> None:
        self.ordinary().fail(error)
