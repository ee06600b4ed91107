"""Requests that go to a running child as they came: what is the same for all with one head and one model.

Most small requests are such: they name a model, and say nothing else that the router has to look at. For them all
questions but one are answered here once: is the model known, may it be loaded, does its preset or its template change
the request. What remains is `fits`, which looks at the one body.

`ModelFromBody.plain_route` makes it, and `server.small_request` sends the requests. A route is good as long as it has
an `open_gate`; everything else goes the way of `ModelFromBody.try_now`.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from router.pool.gate import Gate
from router.proxy import chat
from router.proxy.client_response import header_lines
from router.proxy.gateway import Gateway
from router.proxy.head import Head
from router.proxy.protocols import Dialect
from router.proxy.proxied_request import ProxiedRequest
from router.proxy.routing import TOKEN_LIMIT_FIELDS, Outline, has_limit
from router.records.small import Kind
from router.wire.connection import UpstreamConnection
from router.wire.headers import Headers
from router.wire.response import Response, ResponseHead

MAX_HEADS = 64  # of answers


class PlainRoute:
    """`gate` is open now. The route does not keep it: a route stays as long as its head is remembered, and must not
    hold the process and the catalog of its time."""

    __slots__ = (
        "_connections",
        "_created",
        "_dialect",
        "_gate",
        "_gateway",
        "_is_chat",
        "_limit_fields",
        "_lines",
        "_own_headers",
        "beginning",
        "body_limit",
        "head",
        "kind",
        "timeout",
    )

    def __init__(self, gateway: Gateway, dialect: Dialect, head: Head, gate: Gate) -> None:
        self._gateway, self._dialect, self.head = gateway, dialect, head
        self._gate, self._created = weakref.ref(gate), gateway.created.in_catalog
        self._connections = gateway.upstream.connections(gate.address)
        self.body_limit = gateway.body_limit
        self.timeout = gateway.upstream.read_timeout
        path = head.path.removeprefix("/v1")
        self._is_chat = path in chat.PATHS
        self._limit_fields = TOKEN_LIMIT_FIELDS.get(path, ()) if gateway.generation_time else ()
        self.kind = Kind(head, gate.name, dialect.name, gateway.is_background(head))
        self.beginning = head.forwarded.beginning(gate.key) + b"x-request-id: "
        self._own_headers: Headers = ()
        self._lines: dict[ResponseHead, bytes | None] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.head.path} to {self._gate()!r}>"

    def open_gate(self) -> Gate | None:
        """None if a request with this head and this name would not come here any more, as far as the gate does not say
        so itself."""
        if self._connections.is_retired or self._gateway.created.in_catalog is not self._created:
            return None
        return self._gate()

    def fits(self, gate: Gate, fields: Mapping[str, Any], outline: Outline) -> bool:
        """Whether the router has nothing to do with this body, whose `plain_fields` these are."""
        if self._limit_fields and not has_limit(fields, self._limit_fields):
            return False
        return not (self._is_chat and chat.needs_look(gate.spec.info, fields, outline))

    def take_connection(self) -> UpstreamConnection | None:
        """A kept connection to the child."""
        return self._connections.take()

    def give_back(self, connection: UpstreamConnection) -> None:
        """Nothing was sent."""
        self._connections.keep(connection)

    def response_lines(self, head: ResponseHead, own_headers: Headers) -> bytes | None:
        """The lines of a client's response, from its second to the id, if the child has answered with this head.
        `own_headers` are the server's: another object each time that they change. None as in `header_lines`, and for an
        error, which may have to be told in other words."""
        if own_headers is not self._own_headers:
            self._own_headers = own_headers
            self._lines.clear()
        try:
            return self._lines[head]
        except KeyError:
            lines = header_lines(head) if head.status < 400 else None
            if lines is not None:
                own = b"".join([b"%b: %b\r\n" % header for header in own_headers])
                lines = b"%b%bx-request-id: " % (own, lines)
            if len(self._lines) >= MAX_HEADS:
                self._lines.clear()
            self._lines[head] = lines
            return lines

    def ordinary(self, gate: Gate, ticket: int, id: bytes, body: bytes, answer: Response) -> ProxiedRequest:
        """A request that was sent turns out to be no small one: it goes on as this."""
        request = self._gateway.proxied_request(gate.spec, self.head, self._dialect, body, False, used=True)
        request.go_on_from(gate.lease(ticket), answer, id)
        return request
