"""The HTTP/1.1 client of the data path: one request to a child, its bytes back as they come.

Built on httptools because general clients cost several times what the rest of a request costs. It knows one kind of
peer, a llama-server on a unix socket or on loopback: no TLS, proxies, redirects, cookies or decompression.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from copy import copy
from typing import Any

import httptools

from router.errors import Unreachable, UpstreamFailed
from router.wire.address import Address
from router.wire.head_cache import Heads, message

Headers = Sequence[tuple[bytes, bytes]]

HIGH_WATER = 256 * 1024  # bytes of a body that wait for their reader before the child is made to wait
HEAD_LIMIT = 64 * 1024  # bytes of a response head, interim responses included
WHOLE = 1 << 20  # bytes of an answer that is read whole, where nobody says another number
CONNECT_TIMEOUT = 10.0
IDLE_TIME = 4.0  # a second less than llama-server keeps a connection
PATIENCE = 0.02  # see _Peer
# A connection closed this soon, without a byte, was never looked at: a process that dies closes its listening socket
# some time after the others.
ABRUPT = 0.1

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection "
    b"te trailer transfer-encoding upgrade".split()
)
_LIMIT = re.compile(rb"(timeout|max)\s*=\s*(\d{1,9})")


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers (names in lower case) without those that concern one connection only, RFC 9110 section 7.6.1."""
    headers = list(headers)
    dropped: Collection[bytes] = HOP_BY_HOP
    for name, value in headers:
        if name == b"connection":
            dropped = {*dropped, *(token.strip().lower() for token in value.split(b","))}
    return [header for header in headers if header[0] not in dropped]


class RequestHead:
    """`headers` are end-to-end ones without host, authorization and content-length, which are added to them."""

    __slots__ = ("_lines", "_start", "is_bodiless", "method")

    def __init__(self, method: str, target: bytes, headers: Headers) -> None:
        self.method = method
        self.is_bodiless = method not in ("POST", "PUT", "PATCH")
        self._start = b"%b %b HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer " % (method.encode(), target)
        self._lines = b"\r\n" + b"".join([b"%b: %b\r\n" % header for header in headers])

    def encoded(self, key: str, more: Headers, length: int) -> bytes:
        """With the headers `more` that are this one request's, and a body of `length` bytes."""
        lines = [self._start, key.encode(), self._lines, *[b"%b: %b\r\n" % header for header in more]]
        lines.append(b"\r\n" if self.is_bodiless and not length else b"content-length: %d\r\n\r\n" % length)
        return b"".join(lines)


class ResponseHead:
    """`headers` have lower-case names, end-to-end ones only, but for the length, which is the body's; `keep_alive` is
    how long the connection is kept, in the child's words, unless it `is_last`."""

    __slots__ = ("headers", "is_last", "keep_alive", "status")

    def __init__(self, status: int, headers: Headers, keep_alive: bytes) -> None:
        self.status, self.headers, self.keep_alive, self.is_last = status, headers, keep_alive, False


class Upstream:
    """Requests to children. `read_timeout` is how many seconds a child may be silent while its answer is awaited,
    `idle_time` how many a connection is kept unused, unless the child says less; `patience`: see _Peer."""

    def __init__(
        self, *, read_timeout: float = 3600.0, idle_time: float = IDLE_TIME, patience: float = PATIENCE
    ) -> None:
        self._read_timeout = read_timeout
        self._idle_time = idle_time
        self._patience = patience
        self._peers: dict[Address, _Peer] = {}

    async def open(
        self,
        address: Address,
        key: str,
        head: RequestHead,
        body: bytes = b"",
        more: Headers = (),
        begun: Response | None = None,
    ) -> Response:
        """Send a request, with `more` headers than those of its head, unless `begin` has; the answer is returned when
        its head has come. A kept connection that turns out to be closed is replaced by a new one, once. Raises
        UpstreamFailed."""
        peer = self._peer(address)
        begun = begun or self.begin(address, key, head, body, more)
        if begun is not None:
            try:
                return await begun.opened()
            except _Stale:
                pass
        connection = await _connect(address, peer)
        return await self._ask(connection, key, head, body, more).opened()

    def begin(self, address: Address, key: str, head: RequestHead, body: bytes, more: Headers = ()) -> Response | None:
        """Send a request over a kept connection; None where there is none. What comes of it, `open` tells."""
        connection = (self._peers.get(address) or self._peer(address)).take()
        return None if connection is None else self._ask(connection, key, head, body, more)

    def _ask(self, connection: _Connection, key: str, head: RequestHead, body: bytes, more: Headers) -> Response:
        return connection.ask(head.encoded(key, more, len(body)), body, head.method == "HEAD", self._read_timeout)

    def _peer(self, address: Address) -> _Peer:
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = _Peer(self._idle_time, self._patience)
        return peer

    def forget(self, address: Address) -> None:
        """The child is gone or going: keep no connection to it. Answers under way are not cut."""
        peer = self._peers.pop(address, None)
        if peer is not None:
            peer.retire()

    def close(self) -> None:
        for address in list(self._peers):
            self.forget(address)


class Response:
    """A child's answer.

    Whoever opened it must `read` it to its end or `close` it. `arrived` is called, once, when it has come whole, or
    when that is not to be waited for: it has failed, or is longer than what is held back.
    """

    head: ResponseHead | None = None
    arrived: Callable[[], None] | None = None

    _parser: Any = None
    _received = 0  # bytes, until the head is complete, and then of what is no body
    _interim = False
    _length: int | None = None  # of the body, as it was told
    _until_close = True
    _complete = False
    _reusable = False
    _error: UpstreamFailed | None = None
    _size = 0
    _paused = False
    _waiter: asyncio.Future[None] | None = None

    def __init__(self, connection: _Connection, bodiless: bool, timeout: float, now: float) -> None:
        self._connection = connection
        self._bodiless = bodiless
        self._chunks: list[bytes] = []
        self._timeout = timeout
        self._asked_at = self._waiting_since = now

    @property
    def status(self) -> int:
        """0 as long as its head has not come."""
        return self.head.status if self.head else 0

    @property
    def headers(self) -> Headers:
        """End-to-end ones, with lower-case names."""
        own = [] if self._length is None else [(b"content-length", b"%d" % self._length)]
        return [*self.head.headers, *own] if self.head else []

    @property
    def ended(self) -> bool:
        """Whether everything has been read."""
        return self._complete and not self._chunks

    async def opened(self) -> Response:
        """Itself, when its head has come. Raises UpstreamFailed."""
        try:
            while not self.head:
                await self._more()
        except BaseException:
            self.close()
            raise
        return self

    def whole(self) -> bytes | None:
        """All of the body, if that has come and nothing of it was read."""
        return b"".join(self._chunks) if self._complete else None

    async def read(self) -> bytes:
        """What has come since the last call, waiting if nothing has; b"" at the end. Raises UpstreamFailed."""
        while not self._chunks:
            if self._complete:
                return b""
            await self._more()
        data = b"".join(self._chunks)  # of a single one this is no copy
        self._chunks.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._connection.resume()
        return data

    async def rest(self, limit: int = WHOLE) -> bytes:
        """All that has not been read yet, which may be `limit` bytes. Raises UpstreamFailed."""
        parts, size = [], 0
        try:
            while not self.ended:
                parts.append(await self.read())
                size += len(parts[-1])
                if size > limit:
                    raise UpstreamFailed(
                        f"The model's server sent an answer of more than {shown_size(limit)} where it has to be whole."
                    )
        finally:
            self.close()
        return b"".join(parts)

    async def beginning(self, limit: int) -> bytes:
        """What has not been read yet, but not more than that. Raises UpstreamFailed."""
        data = b""
        try:
            while not self.ended and len(data) < limit:
                data += await self.read()
        finally:
            self.close()
        return data[:limit]

    def close(self) -> None:
        """Let go. An answer that is not complete is cut off, which tells the child to stop working on it."""
        if not self._complete:
            self._fail(UpstreamFailed("The answer was closed before its end."))

    async def _more(self) -> None:
        if self._error is not None:
            raise copy(self._error)  # one that is raised holds the frames that hold this object
        loop = self._connection.loop
        self._waiting_since = loop.time()
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        elif self.arrived is not None and (self._complete or self._error or self._paused):
            arrived, self.arrived = self.arrived, None
            arrived()

    def check_silence(self) -> float:
        """How many seconds more the child may be silent; if none, it fails. Time in which nobody waited for the child
        does not count."""
        left = self._timeout
        if self._waiter is not None or self.arrived is not None:
            left -= self._connection.loop.time() - self._waiting_since
        if left <= 0:
            self._fail(
                UpstreamFailed(
                    f"The model's server sent nothing for {self._timeout:g} s. "
                    "Raise --timeout if the model needs longer."
                )
            )
        return left

    def _fail(self, error: UpstreamFailed) -> None:
        if self._error is None and not self._complete:
            self._error = error
            self._parser = None
            self._connection.abort()
            self._wake()

    # What the connection tells

    def feed(self, data: bytes) -> None:
        if self._parser is not None or not self._recall(data):
            self._parse(data)
        if self._complete:
            self._connection.release(self._reusable)
        elif self._size > HIGH_WATER and not self._paused:
            self._paused = True
            self._connection.pause()
        elif self.arrived is not None:
            self._waiting_since = self._connection.loop.time()
        self._wake()

    def _recall(self, data: bytes) -> bool:
        """Whether it is a whole answer, and its head one that has come before."""
        found = message(data)
        if found is None or self._bodiless:
            return False
        known, length, body = found
        head = self._connection.heads.get(known)
        if head is None or len(body) != length:
            return False
        self.head = head
        self._connection.limit(head.keep_alive)
        self._length = length
        if body:
            self._chunks.append(body)
        self._complete, self._reusable = True, not head.is_last
        return True

    def _parse(self, data: bytes) -> None:
        is_first, before = self._parser is None, self._size
        if is_first:
            self._headers: list[tuple[bytes, bytes]] = []
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._reusable = False
            said = exc.__context__ if isinstance(exc.__context__, UpstreamFailed) else None
            self._fail(said or UpstreamFailed(f"The model's server does not speak HTTP as expected: {exc}."))
        if not self.head:
            self._received += len(data)
            if self._received > HEAD_LIMIT:
                self._fail(UpstreamFailed(f"The model's server sent a head of more than {HEAD_LIMIT} bytes."))
        elif self._size == before and not self._complete:  # trailers, or what may stand behind the size of a chunk
            self._received += len(data)
            if self._received > HEAD_LIMIT:
                self._fail(UpstreamFailed(f"The model's server sent more than {HEAD_LIMIT} bytes that are no answer."))
        if self._complete:
            self._parser = None  # it refers back to this object
            if is_first and self.head and self._size and (found := message(data)):
                known, length, body = found
                if length == self._size == len(body):
                    self.head.is_last = not self._reusable
                    self._connection.heads.learn(known, self.head)

    def lost(self, reused: bool) -> None:
        if self.head and self._until_close:
            self._finish(reusable=False)
            self._wake()
        elif reused and not self._received and not self.head:
            self._fail(_Stale("The kept connection was closed."))
        else:
            was_taken = self.head or self._received or self._connection.loop.time() - self._asked_at > ABRUPT
            kind = UpstreamFailed if was_taken else Unreachable
            when = "in the middle of its answer" if self.head else "before it answered"
            self._fail(kind(f"The model's server ended {when}. Send the request again.", retry_after=1.0))

    def _finish(self, reusable: bool) -> None:
        self._complete = True
        self._reusable = reusable

    # What the parser tells

    def on_message_begin(self) -> None:
        self._reusable = False  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head:
            return  # a trailer
        name = name.lower()
        if name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value.lower()):
            self._until_close = False
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200
        headers, self._headers = self._headers, []
        keep_alive = b",".join(value for name, value in headers if name == b"keep-alive")
        self._connection.limit(keep_alive)
        if self._interim:
            return
        if not 200 <= status <= 599:
            raise UpstreamFailed(f"The model's server answered with the status {status:03}, which no answer has.")
        told = [header for header in end_to_end(headers) if header[0] != b"content-length"]
        length = dict(headers).get(b"content-length")
        self._length = None if length is None else int(length)
        self.head = ResponseHead(status, told, keep_alive)
        if self._bodiless:
            self._finish(self._parser.should_keep_alive())

    def on_body(self, data: bytes) -> None:
        if self._complete:
            self._reusable = False  # a body where none may be
        else:
            self._chunks.append(data)
            self._size += len(data)

    def on_message_complete(self) -> None:
        if not self._interim and not self._complete:
            self._finish(self._parser.should_keep_alive())


class _Stale(UpstreamFailed):
    """A kept connection was closed before a byte of the answer came."""


class _Connection(asyncio.Protocol):
    def __init__(self, peer: _Peer) -> None:
        self._peer = peer
        self.heads = peer.heads
        self.loop = asyncio.get_running_loop()
        self._response: Response | None = None
        self._uses = 0
        self._max_uses = 1_000_000_000
        self._idle_time = peer.idle_time
        self._keep_alive = b""
        self._patience: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self.expires = 0.0

    def ask(self, head: bytes, body: bytes, bodiless: bool, timeout: float) -> Response:
        response = self._response = Response(self, bodiless, timeout, self.loop.time())
        if self._uses == 0:
            self._patience = self.loop.call_later(self._peer.patience, self._peer.starve, self)
        if self._silence is None:
            self._silence = self.loop.call_later(timeout, self._listen)
        self._uses += 1
        if len(body) < HIGH_WATER:
            self._transport.write(head + body)
        else:  # not copied
            self._transport.write(head)
            self._transport.write(body)
        return response

    def limit(self, keep_alive: bytes) -> None:
        """Take note of a Keep-Alive header. `max` may count down or, as httplib's, be the same each time."""
        if keep_alive == self._keep_alive:
            return
        self._keep_alive = keep_alive
        for name, number in _LIMIT.findall(keep_alive.lower()):
            if name == b"max":
                self._max_uses = min(self._max_uses, int(number))
            else:
                self._idle_time = min(self._idle_time, int(number) - 1.0)

    def release(self, reusable: bool) -> None:
        self._response = None
        unsent = self._transport.get_write_buffer_size()
        if reusable and not unsent and self._uses < self._max_uses and self._idle_time > 0:
            self.expires = self.loop.time() + self._idle_time
            self._peer.keep(self)
        else:
            self.abort()

    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def abort(self) -> None:
        self._transport.abort()

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        if self.is_open():
            self._transport.resume_reading()

    def _listen(self) -> None:
        """One timer for all the answers of a connection, which looks at the one that is awaited when it comes."""
        left = self._response.check_silence() if self._response is not None else 0.0
        self._silence = self.loop.call_later(left, self._listen) if left > 0 else None

    def _answered(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
            self._peer.starving.discard(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._patience is not None:
            self._answered()
        if self._response is not None:
            self._response.feed(data)
        else:
            self.abort()  # nothing was asked

    def connection_lost(self, exc: Exception | None) -> None:
        self._answered()
        if self._silence is not None:
            self._silence.cancel()
        if self._response is not None:
            response, self._response = self._response, None
            response.lost(reused=self._uses > 1)


class _Peer:
    """The connections to one child.

    llama-server gives each connection a thread for as long as it lives, idle or not, and in a burst of new ones it
    starts too few: those left over are served when another connection closes, if need be when an idle one times out
    after 5 s (httplib's ThreadPool::enqueue; seen with 16 connections at once). So while a new connection has been
    waiting for longer than `patience` seconds, no idle one is kept.
    """

    def __init__(self, idle_time: float, patience: float) -> None:
        self.idle_time = idle_time
        self.patience = patience
        self.heads: Heads[ResponseHead] = Heads()
        self.starving: set[_Connection] = set()
        self._idle: list[_Connection] = []  # latest last; closed ones are passed over
        self._retired = False

    def take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.expires > connection.loop.time() and connection.is_open():
                return connection
            connection.abort()
        return None

    def keep(self, connection: _Connection) -> None:
        if self._retired or self.starving:
            connection.abort()
        else:
            self._idle.append(connection)

    def starve(self, connection: _Connection) -> None:
        self.starving.add(connection)
        self._clear()

    def retire(self) -> None:
        self._retired = True
        self._clear()

    def _clear(self) -> None:
        while self._idle:
            self._idle.pop().abort()


def shown_size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


async def _connect(address: Address, peer: _Peer) -> _Connection:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            if address.path is None:
                _, connection = await loop.create_connection(lambda: _Connection(peer), address.host, address.port)
            else:
                sock = await _unix_socket(address.path)
                _, connection = await loop.create_unix_connection(lambda: _Connection(peer), sock=sock)
    except OSError as exc:
        error = Unreachable(
            f"The model's server cannot be reached ({exc.strerror or type(exc).__name__}). Send the request again.",
            retry_after=1.0,
        )
        error.is_deaf = isinstance(exc, (FileNotFoundError, NotADirectoryError, ConnectionRefusedError))
        raise error from exc
    return connection


async def _unix_socket(path: str) -> socket.socket:
    """A connected socket. While the child's backlog is full the kernel says EAGAIN, and there is nothing to wait on;
    asyncio then takes the socket for connected, libuv fails. Retried here; the caller limits the time."""
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
