"""The answer of a child to one request: from the bytes of a connection to a head and a body.

A Response stands between two sides that do not know each other. The connection feeds it bytes; a reader takes them out,
in one of two ways:

- It waits: `wait_for_head`, then `read` until `is_at_end`, or `read_all`. This is the ordinary way.
- It sets `on_complete`, and takes `complete_body` when that is called. No coroutine is needed for a short answer: the
  fast path of `server.connection` does this.

The interface between the two sides: the connection calls `feed`, `on_connection_lost` and `check_silence`; the response
calls what `Connection` lists. Both are called within the event loop, and none of them waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from copy import copy
from typing import Any, Protocol

import httptools

from router.errors import Unreachable, UpstreamFailed
from router.units import limit_size
from router.wire.head_cache import HeadCache, split_message
from router.wire.headers import Headers, end_to_end

HIGH_WATER_BYTES = 256 * 1024  # of a body that wait for their reader before the child is made to wait
MAX_HEAD_BYTES = 64 * 1024  # of a response head, interim responses included
TAIL_BYTES = 4096  # of the body, kept of its beginning and of its end
MAX_READ_ALL_BYTES = 1 << 20  # of an answer that is read as one piece, unless the caller gives another limit

_PROGRESS = b'"prompt_progress"'  # a field of an event of llama-server, for clients that want to see progress

# If a new connection is closed within this time and without a byte, the child has never accepted it: a process that
# dies closes its listening socket some time after the others.
NEVER_ACCEPTED_S = 0.1


class Connection(Protocol):
    """What a response needs of the connection that carries it; `connection.UpstreamConnection` is one."""

    loop: asyncio.AbstractEventLoop
    known_heads: HeadCache[ResponseHead]

    def note_keep_alive(self, keep_alive: bytes) -> None:
        """The value of a Keep-Alive header has come, b"" for none."""

    def release(self, is_reusable: bool) -> None:
        """The answer is complete. `is_reusable`: another request may follow on this connection."""

    def abort(self) -> None:
        """Close at once, and so the child stops working on the answer."""

    def pause(self) -> None:
        """Read no more from the child: the reader is slower."""

    def resume(self) -> None: ...


class ResponseHead:
    """The head of a final response.

    `headers` are end-to-end ones with lower-case names, without the content-length, which differs from body to body.
    `keep_alive` is the value of its Keep-Alive header.
    `is_last`: the child closes the connection after this response.
    `has_events`: its body is a stream of events.
    """

    __slots__ = ("has_events", "headers", "is_last", "keep_alive", "status")

    def __init__(self, status: int, headers: Headers, keep_alive: bytes) -> None:
        self.status, self.headers, self.keep_alive, self.is_last = status, headers, keep_alive, False
        self.has_events = dict(headers).get(b"content-type", b"").startswith(b"text/event-stream")

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status}>"


def known_answer(connection: Connection, data: bytes) -> tuple[ResponseHead, bytes] | None:
    """The head and the body of an answer, if the data are one whole answer with a head that was parsed before.

    The body's length must fit to the byte. All else (an answer in pieces, chunks, bytes behind the body) is None."""
    found = split_message(data)
    if found is None:
        return None
    key, length, body = found
    head = connection.known_heads.get(key)
    if head is None or len(body) != length:
        return None
    connection.note_keep_alive(head.keep_alive)
    return head, body


class StaleConnection(UpstreamFailed):
    """A kept connection was closed before a byte of the answer came: the request may be sent again."""


class Response:
    """A child's answer. Its reader must `read` it to the end or `close` it.

    `on_complete` is called once: when the answer is complete, when it has failed, or when it is longer than what is
    held back here. Only in the first case `complete_body` returns bytes.
    """

    head: ResponseHead | None = None
    on_complete: Callable[[], None] | None = None

    # For those who watch: how many pieces have been read, and when the first content was, by `time.monotonic`.
    pieces = 0
    content_at: float | None = None

    # Defaults are of the class: __init__ runs for every request, and most answers change few of these.
    _parser: Any = None  # only while an answer is parsed that was not recognised as a whole
    _overhead_bytes = 0  # bytes of the head; once it is complete, bytes that are no body
    _is_interim = False  # the head that is being parsed is a 1xx
    _length: int | None = None  # the body's, as its head says
    _ends_with_connection = True  # neither a length nor chunks say where the body ends
    _is_complete = False  # all of the answer has come
    _is_reusable = False
    _error: UpstreamFailed | None = None
    _held_bytes = 0  # of `_chunks`
    _is_paused = False
    _waiter: asyncio.Future[None] | None = None
    beginning = b""  # TAIL_BYTES of what was read
    _recent: list[bytes] | None = None  # the last pieces that were read, at least TAIL_BYTES if there are so many
    _recent_bytes = 0

    def __init__(self, connection: Connection, is_head_request: bool, timeout: float, now: float) -> None:
        self._connection = connection
        self._is_head_request = is_head_request
        self._chunks: list[bytes] = []  # not read yet
        self._timeout = timeout
        self._sent_at = self._waiting_since = now

    def __repr__(self) -> str:
        state = "failed" if self._error is not None else "complete" if self._is_complete else "open"
        return f"<Response {self.status or 'without head'}, {state}>"

    @property
    def status(self) -> int:
        """0 until the head has come."""
        return self.head.status if self.head else 0

    @property
    def headers(self) -> Headers:
        """End-to-end ones, names in lower case."""
        own = [] if self._length is None else [(b"content-length", b"%d" % self._length)]
        return [*self.head.headers, *own] if self.head else []

    @property
    def is_at_end(self) -> bool:
        """Whether all of the body has been read."""
        return self._is_complete and not self._chunks

    # For the reader

    async def wait_for_head(self) -> Response:
        """Return this response as soon as its head has come. Raises UpstreamFailed."""
        try:
            while not self.head:
                await self._wait()
        except BaseException:
            self.close()
            raise
        return self

    def complete_body(self) -> bytes | None:
        """The body; None if it has not come whole. Only for a response of which nothing was read."""
        return b"".join(self._chunks) if self._is_complete else None

    async def read(self) -> bytes:
        """What has come since the last call, waiting if nothing has; b"" at the end. Raises UpstreamFailed."""
        while not self._chunks:
            if self._is_complete:
                return b""
            await self._wait()
        return b"".join(self._take_pieces())  # a single piece is not copied

    async def read_pieces(self) -> list[bytes]:
        """As `read`, in the pieces in which the child sent it, as far as they have come whole; [] at the end."""
        while not self._chunks:
            if self._is_complete:
                return []
            await self._wait()
        return self._take_pieces()

    @property
    def is_stream(self) -> bool:
        """Whether its pieces are events."""
        return self.head is not None and self.head.has_events

    @property
    def tail(self) -> bytes:
        """The last TAIL_BYTES that were read."""
        return b"".join(self._recent or ())[-TAIL_BYTES:]

    def _take_pieces(self) -> list[bytes]:
        pieces, self._chunks = self._chunks, []
        self.pieces += len(pieces)
        if self.content_at is None:
            self._note_first(pieces)
        if self._recent is None:
            self._recent = []
        self._recent += pieces
        self._recent_bytes += self._held_bytes
        if self._recent_bytes > 2 * TAIL_BYTES:
            self._recent = [self.tail]
            self._recent_bytes = TAIL_BYTES
        self._held_bytes = 0
        if self._is_paused:
            self._is_paused = False
            self._connection.resume()
        return pieces

    def _note_first(self, pieces: list[bytes]) -> None:
        """Comments, and events about the prompt, are no content."""
        if not self.beginning:
            self.beginning = pieces[0][:TAIL_BYTES]
        if not all(piece.startswith(b":") or _PROGRESS in piece for piece in pieces):
            self.content_at = time.monotonic()

    async def read_all(self, limit: int = MAX_READ_ALL_BYTES) -> bytes:
        """All that has not been read yet. Raises UpstreamFailed, also if that is more than `limit` bytes."""
        parts, size = [], 0
        try:
            while not self.is_at_end:
                parts.append(await self.read())
                size += len(parts[-1])
                if size > limit:
                    raise UpstreamFailed(
                        f"The model's server sent an answer of more than {limit_size(limit)} where it has to be whole."
                    )
        finally:
            self.close()
        return b"".join(parts)

    async def read_up_to(self, limit: int) -> bytes:
        """The first `limit` bytes of what has not been read yet; the rest is dropped. Raises UpstreamFailed."""
        data = b""
        try:
            while not self.is_at_end and len(data) < limit:
                data += await self.read()
        finally:
            self.close()
        return data[:limit]

    def close(self) -> None:
        """The reader is done. An answer that is not complete is cut off, and so the child stops working on it."""
        if not self._is_complete:
            self.fail(UpstreamFailed("The answer was closed before its end."))

    async def _wait(self) -> None:
        """Until something has come. Raises the error of a response that has failed."""
        if self._error is not None:
            raise copy(self._error)  # a raised error holds the frames, and they hold this object
        loop = self._connection.loop
        self._waiting_since = loop.time()
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake_reader(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        elif self.on_complete is not None and (self._is_complete or self._error or self._is_paused):
            on_complete, self.on_complete = self.on_complete, None
            on_complete()

    def fail(self, error: UpstreamFailed) -> None:
        """The rest of the answer does not come. What has come can still be read; then this error is raised."""
        if self._error is None and not self._is_complete:
            self._error = error
            self._parser = None
            self._connection.abort()
            self._wake_reader()

    # For the connection

    def feed(self, data: bytes) -> None:
        """Take bytes of the answer."""
        if self._parser is not None or not self._take_known(data):
            self._parse(data)
        if self._is_complete:
            # First the connection, then the reader: the reader may send its next request at once, on this connection.
            self._connection.release(self._is_reusable)
        elif self._held_bytes > HIGH_WATER_BYTES and not self._is_paused:
            self._is_paused = True
            self._connection.pause()
        elif self.on_complete is not None:
            self._waiting_since = self._connection.loop.time()
        self._wake_reader()

    def on_connection_lost(self, is_reused: bool) -> None:
        """The connection was closed by the child. `is_reused`: it has carried other requests before this one."""
        if self._error is not None:
            return  # it was closed here; an answer that was cut must not look like one that is complete
        if self.head and self._ends_with_connection:
            self._complete(is_reusable=False)
            self._wake_reader()
        elif is_reused and not self._overhead_bytes and not self.head:
            self.fail(StaleConnection("The kept connection was closed."))
        else:
            age = self._connection.loop.time() - self._sent_at
            was_accepted = self.head or self._overhead_bytes or age > NEVER_ACCEPTED_S
            kind = UpstreamFailed if was_accepted else Unreachable
            when = "in the middle of its answer" if self.head else "before it answered"
            self.fail(kind(f"The model's server ended {when}. Send the request again.", retry_after=1.0))

    def check_silence(self) -> float:
        """How many seconds the child may still be silent. If none are left, the response fails.

        Only time in which the reader waits counts: a slow reader is not a silent child.
        """
        left = self._timeout
        if self._waiter is not None or self.on_complete is not None:
            left -= self._connection.loop.time() - self._waiting_since
        if left <= 0:
            self.fail(
                UpstreamFailed(
                    f"The model's server sent nothing for {self._timeout:g} s. "
                    "Raise --timeout if the model needs longer."
                )
            )
        return left

    def _take_known(self, data: bytes) -> bool:
        """Whether the data are a known answer. Then it is taken without parsing; all else is parsed."""
        found = None if self._is_head_request else known_answer(self._connection, data)
        if found is None:
            return False
        head, body = found
        self.head, self._length = head, len(body)
        if body:
            self._chunks.append(body)
        self._is_complete, self._is_reusable = True, not head.is_last
        return True

    def _parse(self, data: bytes) -> None:
        is_first, held_before = self._parser is None, self._held_bytes
        if is_first:
            self._headers: list[tuple[bytes, bytes]] = []
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._is_reusable = False
            # The parser wraps what its callbacks below raise.
            raised = exc.__context__ if isinstance(exc.__context__, UpstreamFailed) else None
            self.fail(raised or UpstreamFailed(f"The model's server does not speak HTTP as expected: {exc}."))
        if not self.head:
            self._overhead_bytes += len(data)
            if self._overhead_bytes > MAX_HEAD_BYTES:
                self.fail(UpstreamFailed(f"The model's server sent a head of more than {MAX_HEAD_BYTES} bytes."))
        elif self._held_bytes == held_before and not self._is_complete:  # trailers, or the extension of a chunk's size
            self._overhead_bytes += len(data)
            if self._overhead_bytes > MAX_HEAD_BYTES:
                self.fail(
                    UpstreamFailed(f"The model's server sent more than {MAX_HEAD_BYTES} bytes that are no answer.")
                )
        if self._is_complete:
            self._parser = None  # it refers back to this object
            if is_first and self.head and self._held_bytes and (found := split_message(data)):
                # Remember only what `_take_known` would read in the same way: one piece, and the length to the byte.
                key, length, body = found
                if length == self._held_bytes == len(body):
                    self.head.is_last = not self._is_reusable
                    self._connection.known_heads.remember(key, self.head)

    def _complete(self, is_reusable: bool) -> None:
        self._is_complete = True
        self._is_reusable = is_reusable

    # For the parser

    def on_message_begin(self) -> None:
        self._is_reusable = False  # this is called again only for a second answer to the same request

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head:
            return  # a trailer
        name = name.lower()
        if name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value.lower()):
            self._ends_with_connection = False
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._is_interim = 100 <= status < 200
        headers, self._headers = self._headers, []
        keep_alive = b",".join(value for name, value in headers if name == b"keep-alive")
        self._connection.note_keep_alive(keep_alive)
        if self._is_interim:
            return
        if not 200 <= status <= 599:
            raise UpstreamFailed(f"The model's server answered with the status {status:03}, which no answer has.")
        kept = [header for header in end_to_end(headers) if header[0] != b"content-length"]
        length = dict(headers).get(b"content-length")
        self._length = None if length is None else int(length)
        self.head = ResponseHead(status, kept, keep_alive)
        if self._is_head_request:
            self._complete(self._parser.should_keep_alive())

    def on_body(self, data: bytes) -> None:
        if self._is_complete:
            self._is_reusable = False  # a body where none is allowed
        else:
            self._chunks.append(data)
            self._held_bytes += len(data)

    def on_message_complete(self) -> None:
        if not self._is_interim and not self._is_complete:
            self._complete(self._parser.should_keep_alive())
