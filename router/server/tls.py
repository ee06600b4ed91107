"""HTTPS: a connection is counted and has a time limit from its first moment, not only after the TLS handshake.

An event loop that gets a TLS context announces a connection after its handshake. Until then, a client that says nothing
would hold a file descriptor, and the router could not know. So the loop gets no context: `Handshake` takes the plain
connection, counts it, and does the handshake itself. `serve` gives it to uvicorn if there is a certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.server import ServerState

from router.server.admission import Admission
from router.server.framing import FramedConnection

HANDSHAKE_S = 10.0  # if the client's timeout is not shorter


class Handshake(asyncio.Protocol):
    """Takes the place of a connection until its handshake is done. Then `make_connection` makes the real one, which
    gets what was decrypted meanwhile."""

    transport: Any
    _handshake: Any  # the coroutine of `start_tls`

    def __init__(
        self,
        context: ssl.SSLContext,
        make_connection: Callable[..., FramedConnection],
        admission: Admission,
        server_state: ServerState,
        **options: Any,
    ) -> None:
        self._context = context
        self._admission = admission
        self._connections: set[Any] = server_state.connections
        self._make_connection = partial(make_connection, server_state=server_state, **options)
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._is_lost = False
        self._early_data: list[bytes] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'lost' if self._is_lost else 'open'} early={sum(map(len, self._early_data))}>"

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._connections.add(self)
        if self._admission.is_full(len(self._connections)) and not self._admission.make_room(self._connections, self):
            transport.abort()  # without TLS, no error can be sent
            return
        seconds = min(HANDSHAKE_S, self._admission.limits.timeout or HANDSHAKE_S)
        # The coroutine is driven by hand, not in a task. The loop reads as soon as this method returns, and by then TLS
        # must be in place to get what it reads.
        self._handshake = self._loop.start_tls(
            transport, self, self._context, server_side=True, ssl_handshake_timeout=seconds
        )
        self._step()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._early_data.append(data)

    def _step(self, _: object = None) -> None:
        """Goes on with the handshake until it waits for the client again."""
        try:
            awaited: Any = self._handshake.send(None)
        except StopIteration as end:
            self._finish(end.value)
        except (OSError, asyncio.CancelledError):  # no TLS, too slow, or the client has left
            self._finish(None)
        else:
            awaited.add_done_callback(self._step)

    def _finish(self, transport: Any) -> None:
        """`transport` is the encrypted one, None if there is none."""
        self._connections.discard(self)
        # With uvloop, the handshake of a connection that was aborted may end without an error.
        if transport is None or self._is_lost or self.transport.is_closing():
            self.transport.abort()
            return
        connection = self._make_connection()
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._early_data and not transport.is_closing():
            connection.data_received(b"".join(self._early_data))

    # For Admission, and for the end of the router

    def is_idle(self) -> bool:
        return not self.transport.is_closing()

    def eviction_rank(self) -> tuple[bool, float]:
        return False, self._started_at

    def has_buffered(self) -> bool:
        return False

    def is_busy(self) -> bool:
        return False  # its client has sent no request yet, and may never do

    def refuse_unfinished(self) -> None:
        """There is no request."""

    def announce_end(self) -> None:
        """The connection that follows knows it by itself."""

    def shutdown(self) -> None:
        with contextlib.suppress(OSError):
            self.transport.abort()
