"""The HTTP/1.1 client of the data path: sends requests to children and gives back their answers.

Built on httptools, because general HTTP clients cost several times what the rest of a request costs. It knows one kind
of peer, a llama-server on a unix socket or on loopback: no TLS, proxies, redirects, cookies or decompression.

There is one Upstream per router. `proxy.proxied_request` and `proxy.conversation` call it for clients, `api.native` for
the router's own questions; `node.process` has a small one of its own for a child that loads.
"""

from __future__ import annotations

from router.errors import UpstreamFailed
from router.wire.address import Address
from router.wire.connection import ChildConnections, UpstreamConnection
from router.wire.headers import Headers
from router.wire.request_head import RequestHead
from router.wire.response import Response, StaleConnection

IDLE_TIMEOUT_S = 4.0  # a second less than llama-server keeps a connection
FIRST_BYTE_GRACE_S = 0.02  # see ChildConnections


class Upstream:
    """Requests to children.

    `read_timeout` is how many seconds a child may be silent while its answer is awaited.
    `idle_timeout` is how many seconds an unused connection is kept, unless the child says less.
    `first_byte_grace` is how many seconds a new connection may have no answer before it counts as stalled.

        response = await upstream.open(address, key, RequestHead("GET", b"/props", []))
        try:
            while data := await response.read():
                ...
        finally:
            response.close()
    """

    def __init__(
        self,
        *,
        read_timeout: float = 3600.0,
        idle_timeout: float = IDLE_TIMEOUT_S,
        first_byte_grace: float = FIRST_BYTE_GRACE_S,
    ) -> None:
        self.read_timeout = read_timeout
        self._idle_timeout = idle_timeout
        self._first_byte_grace = first_byte_grace
        self._children: dict[Address, ChildConnections] = {}

    def __repr__(self) -> str:
        return f"<Upstream {len(self._children)} children>"

    async def open(
        self,
        address: Address,
        key: str,
        head: RequestHead,
        body: bytes = b"",
        own_headers: Headers = (),
        sent: Response | None = None,
    ) -> Response:
        """Send a request and wait for the head of its answer. Raises UpstreamFailed.

        `own_headers` are those of this one request. `sent` is what `send` has returned for the same request: then only
        its answer is awaited. If the child has closed a kept connection, the request is sent again on a new one, once.
        """
        connections = self.connections(address)
        sent = sent or self.send(address, key, head, body, own_headers)
        if sent is not None:
            try:
                return await sent.wait_for_head()
            except StaleConnection:
                pass
        connection = await connections.connect(address)
        return await self._send(connection, key, head, body, own_headers).wait_for_head()

    def send(
        self, address: Address, key: str, head: RequestHead, body: bytes, own_headers: Headers = ()
    ) -> Response | None:
        """Send a request over a kept connection, without waiting. None if no connection is kept; then call `open`.

        The response may fail because the child closed the connection meanwhile. Hand it to `open`, which sends again.
        """
        connection = (self._children.get(address) or self.connections(address)).take()
        return None if connection is None else self._send(connection, key, head, body, own_headers)

    def _send(
        self, connection: UpstreamConnection, key: str, head: RequestHead, body: bytes, own_headers: Headers
    ) -> Response:
        data = head.encoded(key, own_headers, len(body))
        return connection.send(data, body, head.method == "HEAD", self.read_timeout)

    def connections(self, address: Address) -> ChildConnections:
        """Those to the child at this address."""
        connections = self._children.get(address)
        if connections is None:
            connections = self._children[address] = ChildConnections(self._idle_timeout, self._first_byte_grace)
        return connections

    def cut(self, address: Address, error: UpstreamFailed) -> None:
        """All answers of this child that are under way fail with this error."""
        if connections := self._children.get(address):
            connections.cut(error)

    def received(self, address: Address) -> int:
        """How often something has come from this child: it goes up while answers come."""
        connections = self._children.get(address)
        return connections.received if connections else 0

    def forget(self, address: Address) -> None:
        """The child has ended or is about to: keep no connection to it. Answers under way are not cut."""
        connections = self._children.pop(address, None)
        if connections is not None:
            connections.retire()

    def close(self) -> None:
        for address in list(self._children):
            self.forget(address)
