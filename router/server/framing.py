"""What one client sends, one request at a time and within limits: a connection that any client may open.

Until the head of a request has come whole, nothing is known of its client. So a client may take little until then: some
bytes and lines, some seconds, and a connection that is closed if another client needs it.

Two rules keep requests apart. A head is buffered until it is whole. And a body is fed to uvicorn's parser in pieces
that never reach into the next request. So the parser never sees a request while another one is being answered, and what
is to be ignored (`Upgrade` headers, trailers) never reaches the application.

uvicorn makes one `connection.ClientConnection` for each client. That one answers small requests itself; all others go
through here.
"""

from __future__ import annotations

import enum
import json
import logging
import math
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from router.server.admission import Admission
from router.server.head_checks import (
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    body_length,
    has_plain_lines,
    is_too_long,
    may_be_head,
    without_upgrade,
)
from router.server.read_buffer import ReadBuffer
from router.server.uvicorn_protocol import UvicornProtocol, mark_disconnected, mark_last

log = logging.getLogger("router.framing")

MAX_AHEAD_BYTES = 64 * 1024  # of further requests that are read while a response is due
FEED_BYTES = 64 * 1024  # of a chunked body that the parser gets at once
# Of the buffer that is processed at once: more than a whole head, and than a request that the fast path waits for. The
# rest is not touched, because what is left of it would be copied with each request.
PART_BYTES = 256 * 1024
STEPS_PER_TURN = 16  # pieces of one connection's data that are processed before other connections have their turn
MIN_BODY_RATE = 1024  # bytes a second; a body that comes more slowly uses up its time
# A client that is answered before it has sent its whole body may send so much more of it. If a connection is closed
# with unread bytes, the response is lost as well (RFC 9112 section 9.6).
MAX_LINGER_BYTES = 64 * 2**20
LINGER_S = 10.0
UNREAD_S = 10.0  # after this time, a client that does not read its response may have to make room for another one
MAX_REUSE_BODY_BYTES = 64 * 1024  # if a larger body is answered early, that response is the connection's last

_ERROR_TYPES = {408: "timeout_error", 503: "unavailable_error"}


class Phase(enum.Enum):
    HEAD = enum.auto()  # waits for the head of a request
    BODY = enum.auto()  # the body has not come whole; the response may be complete already
    RESPONSE = enum.auto()  # the response is due; what comes meanwhile belongs to later requests
    LINGER = enum.auto()  # the last response is sent; what comes is discarded


class FramedConnection(UvicornProtocol):
    """One client's connection: one request at a time, each within the limits of `Admission`.

    Data is processed in steps, and each step takes what belongs to one part of one request. `data_received` begins, and
    `_process` goes on until it must wait: for more bytes (they are buffered) or for the response.

    `Upgrade` headers are ignored, as RFC 9110 section 7.8 allows. uvicorn would take the body of such a request for
    data of the other protocol. Java's HTTP client offers HTTP/2 with each request.
    """

    def __init__(self, config: Config, *args: Any, admission: Admission | None = None, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._admission = admission or Admission()
        self._timeout = self._admission.limits.timeout or math.inf
        self._phase = Phase.HEAD
        self._is_last_response = False  # the response that is due, if any, ends the connection
        self._buffer = ReadBuffer(self._admission)
        self._has_begun = False  # a part of a request's head has come
        self.buffer_number = 0  # its place among all buffers, by age
        # The body
        self._body_left: int | None = 0  # bytes that are still to come; None for a chunked body
        self._chunk_tail = b""  # the last bytes of a chunked body that may be the beginning of an empty line
        self._chunk_overhead = 0  # bytes since the last data or size of a chunk that are neither
        self._discard_left = 0  # bytes that may still come after the response
        # uvicorn has two timers a request. Here is one a connection. When it runs out, it looks at the deadline, which
        # may have moved.
        self._deadline = math.inf
        self._timer: Any = None
        self._timer_at = math.inf
        # For the choice of the connections that make room
        self._idle_since = self.loop.time()
        self._has_answered = False
        self._closing_since = math.inf  # when `is_idle` first saw that the transport is closing

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._phase.name} buffered={self._buffer.size} left={self._body_left}>"

    # For Admission

    def is_idle(self) -> bool:
        """Whether it may be closed for another client: it waits for a request, discards the rest of one, or has a
        response that the client does not read."""
        now, patience = self.loop.time(), min(UNREAD_S, self._timeout)
        if self.transport.is_closing():  # it ends by itself when the client has read the response
            self._closing_since = min(self._closing_since, now)
            return now - self._closing_since > patience
        is_between = self._phase is not Phase.RESPONSE if self.is_answered() else self._phase is Phase.LINGER
        return is_between or now - self.unread_since > patience

    def eviction_rank(self) -> tuple[bool, float]:
        """The lowest is closed first: connections that never had a response, then those that are idle for longest."""
        return self._has_answered, self._idle_since

    def has_buffered(self) -> bool:
        """Whether it holds bytes of a request that is not whole, or is not due yet."""
        return self._buffer.size > 0 and not self.transport.is_closing()

    def drop_buffer(self) -> None:
        if self._phase is Phase.RESPONSE:  # requests after this one: the client has to send them again
            self._is_last_response = True
            self._buffer.clear()
        else:
            self._refuse(503, "Too many requests have not come whole; try again later.")

    # The connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._is_last_response = self._admission.is_closing
        self._set_deadline(self.loop.time() + self._timeout)
        if self._admission.is_full(len(self.connections)) and not self._admission.make_room(self.connections, self):
            self._refuse(503, "All connections are in use; try again later. --max-connections allows for more.")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._buffer.clear()
        if self._timer is not None:
            self._timer.cancel()

    # For the end of the router

    def is_busy(self) -> bool:
        """Whether a response is due."""
        is_due = self._phase is Phase.RESPONSE or (self._phase is Phase.BODY and not self.is_answered())
        return is_due or self._buffer.starts_with_head()

    def is_between(self) -> bool:
        return self._phase is Phase.HEAD and not self._buffer.starts_with_head()

    def refuse_unfinished(self) -> None:
        """Refuse a request whose body has not come whole; the fast path keeps such a one in the buffer."""
        is_buffered = self._phase is Phase.HEAD and self._buffer.starts_with_head()
        if is_buffered or (self._phase is Phase.BODY and not self.is_answered()):
            self._refuse(503, "The router is shutting down. Send the request again in a moment.")

    def announce_end(self) -> None:
        """The response that is due, or else the next one, says that it is the last, and ends the connection."""
        self._is_last_response = True
        if not self.is_answered() and self.cycle.keep_alive:
            mark_last(self.cycle)

    # Data

    def data_received(self, data: bytes) -> None:
        if self._buffer.size:
            self._buffer.append(data)
            self._check_buffer()
            if self._buffer.size < self._buffer.wanted_size:
                return
            self._process_part()
        else:
            self._process(data)

    def _process_part(self) -> None:
        """Processes the first part of the buffer, and soon the next one, unless that has to wait."""
        self._process(self._buffer.take(PART_BYTES))
        if self._phase is not Phase.RESPONSE and 0 < self._buffer.size >= self._buffer.wanted_size:
            self.loop.call_soon(self._process_buffered)

    def _process(self, data: bytes) -> None:
        for _ in range(STEPS_PER_TURN):
            match self._phase:
                case Phase.HEAD:
                    taken = self._take_head(data)
                case Phase.BODY:
                    taken = self._take_body(data)
                case Phase.RESPONSE:
                    self._buffer_until(math.inf, data)
                    return
                case Phase.LINGER:
                    self._discard(len(data))
                    return
            if taken in (0, len(data)):  # 0: the data is in the buffer
                return
            data = data[taken:]
        self.flow.pause_reading()
        self._buffer_until(math.inf, data)
        self.loop.call_soon(self._process_buffered)

    def _process_buffered(self) -> None:
        if self._phase is not Phase.RESPONSE and self._buffer.size and not self.transport.is_closing():
            self.flow.resume_reading()
            self._process_part()

    def _buffer_until(self, wanted_size: float, data: bytes) -> None:
        """Puts the data back, in front of what is buffered. `data_received` goes on when there are `wanted_size` bytes
        in all."""
        if self._phase is Phase.HEAD and not self._has_begun:
            self._has_begun, self.buffer_number = True, self._admission.next_number()
            self._set_deadline(self.loop.time() + self._timeout)
        elif self._phase is not Phase.HEAD and not self._buffer.size:
            self.buffer_number = self._admission.next_number()
        self._buffer.put_back(data, wanted_size)
        self._check_buffer()

    def _check_buffer(self) -> None:
        if self._phase is Phase.RESPONSE and self._buffer.size > MAX_AHEAD_BYTES:
            self.gated_flow.stop_reading()
        if self._admission.buffered_bytes > self._admission.limits.max_buffered_bytes:
            self._admission.drop_buffers(self.connections)

    # The parts of a request. Each returns how many bytes it has processed; 0 if all are buffered until more come.

    def _take_head(self, data: bytes) -> int:
        end = data.find(b"\r\n\r\n")
        if end < 0 and len(data) <= MAX_HEAD_BYTES:
            if may_be_head(data):
                self._buffer_until(len(data) + 1, data)
                return 0
            self._refuse(400, "This is no HTTP/1.1 request.")
            return len(data)
        head = data[: end + 4] if end >= 0 else data
        if is_too_long(head):
            limit = f"{MAX_HEAD_BYTES // 1024} KiB and {MAX_HEAD_LINES} lines"
            self._refuse(431, f"The request's head has more than {limit}; large cookies are a common cause.")
        elif not has_plain_lines(head):
            self._refuse(400, "This is no HTTP/1.1 request: a line of its head does not end with CR LF.")
        else:
            self._feed_uvicorn(without_upgrade(head))
        return len(head)

    def _take_body(self, data: bytes) -> int:
        if self._body_left is None:
            taken = self._scan_chunks(data)
        else:
            taken = min(len(data), self._body_left)
            self._body_left -= taken
        self._feed_uvicorn(data[:taken])
        if self._phase is Phase.BODY:  # the parser has not seen the end of the body
            if self._chunk_overhead > MAX_HEAD_BYTES:
                self._refuse(400, "The extensions or trailers of the request's body are too long.")
            elif self.is_answered():
                self._discard(taken)
            else:
                now = self.loop.time()
                self._deadline = min(now + self._timeout, self._deadline + taken / MIN_BODY_RATE)
        return taken

    def _scan_chunks(self, data: bytes) -> int:
        """How many bytes belong to this body for sure. The body ends with an empty line, so no piece may reach beyond
        one. An empty line within the data of a chunk only makes the piece shorter."""
        data = data[:FEED_BYTES]
        end = (self._chunk_tail + data).find(b"\r\n\r\n")
        taken = len(data) if end < 0 else end + 4 - len(self._chunk_tail)
        self._chunk_tail = (self._chunk_tail + data)[-3:] if end < 0 else b""
        self._chunk_overhead += taken
        return taken

    def _feed_uvicorn(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            log.debug("%s", exc)
            self._refuse(400, "This is no HTTP/1.1 request.")

    def _discard(self, size: int) -> None:
        self._discard_left -= size
        if self._discard_left < 0:
            self.transport.abort()

    # Callbacks of the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        # In any other phase it is a trailer, and RFC 9110 section 6.5.1 allows to ignore it.
        if self._phase is Phase.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._phase = Phase.BODY
        self._has_begun = False
        self._body_left, self._chunk_tail, self._chunk_overhead = body_length(self.headers), b"", 0
        self.is_last_if_early = self._body_left is None or self._body_left > MAX_REUSE_BODY_BYTES
        self._set_deadline(self.loop.time() + self._timeout)
        super().on_headers_complete()
        if self._is_last_response or not self.cycle.keep_alive or self.cycle.scope["http_version"] != "1.1":
            mark_last(self.cycle)

    def on_chunk_header(self) -> None:
        self._chunk_overhead = 0

    def on_body(self, body: bytes) -> None:
        self._chunk_overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.is_answered():
            self._wait_for_head()
        else:
            self._phase = Phase.RESPONSE
            self._deadline = math.inf

    # The response

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._phase is Phase.LINGER:
            return
        self.gated_flow.restart_reading()
        if self._is_last_response:
            self.close_after_response()
        elif self._phase is Phase.RESPONSE:
            self._wait_for_head()
        else:  # the body has not come whole; the rest of it is discarded
            self._discard_left = MAX_LINGER_BYTES

    def _wait_for_head(self) -> None:
        self._phase, self._has_answered = Phase.HEAD, True
        self._idle_since = now = self.loop.time()
        self._set_deadline(now + self.timeout_keep_alive)
        if self._buffer.size:
            self.loop.call_soon(self._process_buffered)

    def close_after_response(self) -> None:
        # If the client may still send, it must be able to read the response all the same.
        if self._phase is Phase.BODY or self.flow.read_paused:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Ends the sending side, and discards what still comes."""
        if self.transport.is_closing():
            return
        self._phase = Phase.LINGER
        self._buffer.clear()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._discard_left = MAX_LINGER_BYTES
        self.gated_flow.restart_reading()
        self._set_deadline(self.loop.time() + LINGER_S)

    def _refuse(self, status: int, message: str) -> None:
        """Answers a request that cannot be read any further, and ends the connection. The dialect of the client is not
        known; the error has the shape that most clients know."""
        if self.transport.is_closing() or self._phase is Phase.LINGER:
            return
        if not self.is_answered():
            mark_disconnected(self.cycle)
            if self.cycle.response_started:
                self.transport.close()
                return
        kind = _ERROR_TYPES.get(status, "invalid_request_error")
        error = {"code": status, "message": message, "type": kind, "param": None}
        body = json.dumps({"error": error}).encode()
        retry = b"retry-after: 5\r\n" if status == 503 else b""
        lines = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[status], retry, lines, body)))
        self._linger()

    # Time

    def _set_deadline(self, when: float) -> None:
        self._deadline = when
        if when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self.loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self.loop.time()
        if self._deadline > now:
            self._set_deadline(self._deadline)
        elif self._phase is Phase.BODY and self.flow.read_paused:  # the router is slow, not the client
            self._set_deadline(now + self._timeout)
        elif self._has_begun or (self._phase is Phase.BODY and not self.is_answered()):
            self._refuse(408, "The request did not come in time; --client-timeout allows for more.")
        else:
            self.transport.abort() if self._phase is Phase.LINGER else self.transport.close()
