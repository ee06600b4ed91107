"""Connections to a child: one that is open (UpstreamConnection), and all of one child's (ChildConnections).

A connection carries one request at a time. When its answer is complete it is kept for the next request, as long as the
child keeps it too. ChildConnections holds the kept ones and decides when none may be kept. `upstream` opens connections
and takes kept ones; `response` says when an answer is complete, too fast for its reader, or of no more use.
"""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Protocol

from router.errors import Unreachable, UpstreamFailed
from router.wire.address import Address
from router.wire.head_cache import HeadCache
from router.wire.response import HIGH_WATER_BYTES, Response, ResponseHead

CONNECT_TIMEOUT_S = 10.0
UNLIMITED_USES = 1_000_000_000

_KEEP_ALIVE_LIMIT = re.compile(rb"(timeout|max)\s*=\s*(\d{1,9})")


class Answer(Protocol):
    """What takes the answer of a child: a `Response`, or `server.small_request.SmallRequest`. See there."""

    def feed(self, data: bytes) -> None: ...
    def on_connection_lost(self, is_reused: bool) -> None: ...
    def check_silence(self) -> float: ...
    def fail(self, error: UpstreamFailed) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """One connection to a child.

    Between requests it has no response, and any byte that comes is a fault of the child. `siblings` are all connections
    to the same child. A kept connection is not used again once the loop's time is `expires`.
    """

    def __init__(self, siblings: ChildConnections) -> None:
        self._siblings = siblings
        self.known_heads = siblings.known_heads
        self.loop = asyncio.get_running_loop()
        self._response: Answer | None = None
        self._uses = 0
        self._max_uses = UNLIMITED_USES
        self._idle_timeout = siblings.idle_timeout
        self._keep_alive = b""  # the header's value that was read last
        self._first_byte_timer: asyncio.TimerHandle | None = None
        self._silence_timer: asyncio.TimerHandle | None = None
        self.expires = 0.0

    def __repr__(self) -> str:
        state = "closed" if not self.is_open() else "busy" if self._response is not None else "idle"
        return f"<UpstreamConnection {state}, {self._uses} requests>"

    def send(self, head: bytes, body: bytes, is_head_request: bool, timeout: float) -> Response:
        """Send a request. `timeout` is how many seconds the child may be silent while its answer is awaited."""
        response = Response(self, is_head_request, timeout, self.loop.time())
        if len(body) < HIGH_WATER_BYTES:
            self.carry(response, head + body, timeout)  # one system call; a body of this size is cheap to copy
        else:
            self.carry(response, head, timeout)
            self._transport.write(body)
        return response

    def carry(self, answer: Answer, data: bytes, timeout: float) -> None:
        """Send these bytes, the beginning of a request at least. `answer` gets what comes."""
        self._response = answer
        if self._uses == 0:
            self._first_byte_timer = self.loop.call_later(
                self._siblings.first_byte_grace, self._siblings.mark_stalled, self
            )
        if self._silence_timer is None:
            self._silence_timer = self.loop.call_later(timeout, self._check_silence)
        self._uses += 1
        self._transport.write(data)

    def as_response(self, timeout: float, sent_at: float) -> Response:
        """From now on a Response gets the answer, as if `send` had sent the request at that time."""
        response = self._response = Response(self, False, timeout, sent_at)
        return response

    def cut(self, error: UpstreamFailed) -> None:
        """The answer under way, if there is one, fails with this error."""
        if self._response is not None:
            self._response.fail(error)

    def is_open(self) -> bool:
        return not self._transport.is_closing()

    # Called by the response

    def note_keep_alive(self, keep_alive: bytes) -> None:
        """Apply a Keep-Alive header. `max` may count down or, as in httplib, be the same each time."""
        if keep_alive == self._keep_alive:
            return
        self._keep_alive = keep_alive
        for name, number in _KEEP_ALIVE_LIMIT.findall(keep_alive.lower()):
            if name == b"max":
                self._max_uses = min(self._max_uses, int(number))
            else:
                self._idle_timeout = min(self._idle_timeout, int(number) - 1.0)

    def release(self, is_reusable: bool) -> None:
        """The answer is complete: keep the connection for the next request if possible, else close it."""
        self._response = None
        # A child may answer before it has read the whole request: the rest of the body would come before the next head.
        unsent = self._transport.get_write_buffer_size()
        if is_reusable and not unsent and self._uses < self._max_uses and self._idle_timeout > 0:
            self.expires = self.loop.time() + self._idle_timeout
            self._siblings.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        self._transport.abort()

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        if self.is_open():
            self._transport.resume_reading()

    # Timers

    def _check_silence(self) -> None:
        """One timer serves all answers of a connection. When it fires, the current answer says how long it may still
        last; a timer for each answer would cost more than the rest of this class."""
        left = self._response.check_silence() if self._response is not None else 0.0
        self._silence_timer = self.loop.call_later(left, self._check_silence) if left > 0 else None

    def _end_first_byte_wait(self) -> None:
        if self._first_byte_timer is not None:
            self._first_byte_timer.cancel()
            self._first_byte_timer = None
            self._siblings.stalled.discard(self)

    # Called by the event loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._siblings.open.add(self)

    def data_received(self, data: bytes) -> None:
        self._siblings.received += 1
        if self._first_byte_timer is not None:
            self._end_first_byte_wait()
        if self._response is not None:
            self._response.feed(data)
        else:
            self.abort()  # bytes that answer no request

    def connection_lost(self, exc: Exception | None) -> None:
        self._siblings.open.discard(self)
        self._end_first_byte_wait()
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        if self._response is not None:
            response, self._response = self._response, None
            response.on_connection_lost(is_reused=self._uses > 1)


class ChildConnections:
    """The connections to one child, and the heads of its answers.

    llama-server gives each connection a thread for as long as the connection lives, idle or not. In a burst of new
    connections it starts too few threads: the connections left over are served when another one closes, if need be when
    an idle one times out after 5 s (httplib's ThreadPool::enqueue; seen with 16 connections at once). So a new
    connection without a first byte after `first_byte_grace` seconds counts as stalled, and while one is stalled, no
    idle connection is kept.

    `idle_timeout` is how many seconds an unused connection is kept, unless the child says less.
    `open` are all connections that are open, and `received` counts how often something has come on one of them.
    """

    def __init__(self, idle_timeout: float, first_byte_grace: float) -> None:
        self.idle_timeout = idle_timeout
        self.first_byte_grace = first_byte_grace
        self.known_heads: HeadCache[ResponseHead] = HeadCache()
        self.open: set[UpstreamConnection] = set()
        self.received = 0
        self.stalled: set[UpstreamConnection] = set()
        self._idle: list[UpstreamConnection] = []  # latest last; some may be closed
        self.is_retired = False  # no connection is kept any more

    def __repr__(self) -> str:
        retired = ", retired" if self.is_retired else ""
        return f"<ChildConnections {len(self._idle)} idle, {len(self.stalled)} stalled{retired}>"

    def take(self) -> UpstreamConnection | None:
        """The kept connection that was used last; None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.expires > connection.loop.time() and connection.is_open():
                return connection
            connection.abort()
        return None

    def keep(self, connection: UpstreamConnection) -> None:
        if self.is_retired or self.stalled:
            connection.abort()
        else:
            self._idle.append(connection)

    def mark_stalled(self, connection: UpstreamConnection) -> None:
        self.stalled.add(connection)
        self._close_idle()

    def cut(self, error: UpstreamFailed) -> None:
        """All answers under way fail with this error."""
        for connection in [*self.open]:
            connection.cut(error)

    def retire(self) -> None:
        """Keep no connection from now on. Answers under way are not cut."""
        self.is_retired = True
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()

    async def connect(self, address: Address) -> UpstreamConnection:
        """Open a new connection. Raises Unreachable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if address.path is None:
                    _, connection = await loop.create_connection(
                        lambda: UpstreamConnection(self), address.host, address.port
                    )
                else:
                    sock = await _connected_unix_socket(address.path)
                    _, connection = await loop.create_unix_connection(lambda: UpstreamConnection(self), sock=sock)
        except OSError as exc:
            error = Unreachable(
                f"The model's server cannot be reached ({exc.strerror or type(exc).__name__}). Send the request again.",
                retry_after=1.0,
            )
            error.is_not_listening = isinstance(exc, (FileNotFoundError, NotADirectoryError, ConnectionRefusedError))
            raise error from exc
        return connection


async def _connected_unix_socket(path: str) -> socket.socket:
    """A connected socket; the caller limits the time.

    While the child's backlog is full the kernel answers EAGAIN, and offers nothing to wait for. asyncio then takes the
    socket for connected, and libuv fails. So this tries again, after a pause that grows.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    delay = 0.001
    try:
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await asyncio.sleep(delay)
                delay = min(2 * delay, 0.05)
            else:
                return sock
    except BaseException:
        sock.close()
        raise
