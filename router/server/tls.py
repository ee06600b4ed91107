"""HTTPS: a connection is counted and has its time from its first moment, not only when its handshake is done.

An event loop that is given a TLS context tells of a connection after the handshake. Until then a client that says
nothing would hold a descriptor, and nobody would know of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.server import ServerState

from router.server.framing import Clients, FramedConnection

HANDSHAKE_SECONDS = 10.0


class Handshake(asyncio.Protocol):
    """Stands for a connection until `make` makes the real one, which gets what was encrypted."""

    transport: Any
    _shaking: Any

    def __init__(
        self,
        context: ssl.SSLContext,
        make: Callable[..., FramedConnection],
        clients: Clients,
        server_state: ServerState,
        **options: Any,
    ) -> None:
        self._context = context
        self._clients = clients
        self._connections: set[Any] = server_state.connections
        self._make = partial(make, server_state=server_state, **options)
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._is_lost = False
        self._early: list[bytes] = []  # what was decrypted meanwhile

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._connections.add(self)
        if self._clients.is_full(len(self._connections)) and not self._clients.make_room(self._connections, self):
            transport.abort()  # there is no way to say why
            return
        seconds = min(HANDSHAKE_SECONDS, self._clients.limits.timeout or HANDSHAKE_SECONDS)
        # Not in a task: the loop reads as soon as this returns, and what it reads is for whoever decrypts.
        self._shaking = self._loop.start_tls(
            transport, self, self._context, server_side=True, ssl_handshake_timeout=seconds
        )
        self._shake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def _shake(self, _: object = None) -> None:
        """The next step of the handshake."""
        try:
            awaited: Any = self._shaking.send(None)
        except StopIteration as end:
            self._go_on(end.value)
        except (OSError, asyncio.CancelledError):  # it speaks no TLS, is too slow, or has left
            self._go_on(None)
        else:
            awaited.add_done_callback(self._shake)

    def _go_on(self, transport: Any) -> None:
        self._connections.discard(self)
        if transport is None or self._is_lost or self.transport.is_closing():  # uvloop: aborted is as good as done
            self.transport.abort()
            return
        connection = self._make()
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._early and not transport.is_closing():
            connection.data_received(b"".join(self._early))

    # What is asked of whatever is among a server's connections

    def is_waiting(self) -> bool:
        return not self.transport.is_closing()

    def rank(self) -> tuple[bool, float]:
        return False, self._since

    def holds(self) -> bool:
        return False

    def shutdown(self) -> None:
        with contextlib.suppress(OSError):
            self.transport.abort()
