"""What one client sends, one request at a time and within bounds: uvicorn's connection, made fit to face anybody.

Nothing is known of a client before its head has come whole, so until then it may take little: bytes and lines of a
head, seconds, and a connection that another client may be given. A head is kept until it is whole, and a body is cut
so that no piece reaches into the next request. So uvicorn's parser never sees a request while another one is answered,
and what is to be ignored (offers of other protocols, trailers) never reaches the application.

Every override of a private method of uvicorn is here; the import fails where uvicorn lacks one. Called by uvicorn, as
`connection.Connection`, which answers small requests without uvicorn.
"""

from __future__ import annotations

import enum
import heapq
import inspect
import itertools
import json
import logging
import math
import re
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import httptools
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

log = logging.getLogger("router.framing")

HEAD_BYTES = 64 * 1024  # of a request's head, and of extensions and trailers at one place of a chunked body
HEAD_LINES = 256
AHEAD_BYTES = 64 * 1024  # of further requests, which are read while an answer is due
PIECE_BYTES = 64 * 1024  # of a chunked body that the parser gets at once
PIECES = 16  # of a connection's data that are dealt with before other connections have their turn
SLOWEST = 1024  # bytes a second: a client that sends a body more slowly runs out of time
# A client that is answered before it has sent all of its body may send so much more of it. Bytes that wait to be read
# when a connection is closed would take the answer back (RFC 9112 section 9.6).
LINGER_BYTES = 64 * 2**20
LINGER_SECONDS = 10.0
UNREAD_SECONDS = 10.0  # after which a client that reads nothing of its answer may make room for another one
LASTING_BODY = 64 * 1024  # bytes of a body above which its early answer is the connection's last

# Methods that are uvicorn's own business. All versions that pyproject.toml allows have them as they are used here.
PRIVATE = ("_start_asgi_task", "_unset_keepalive_if_required")
if _missing := [name for name in PRIVATE if not inspect.isfunction(getattr(HttpToolsProtocol, name, None))]:
    raise ImportError(f"this uvicorn has no {', '.join(_missing)}: install a version that pyproject.toml allows")

_OFFER = re.compile(rb"\r\nupgrade:[^\r\n]*(?:\r\n[ \t][^\r\n]*)*", re.IGNORECASE)
_START = re.compile(rb"[A-Z-]+ \S+ HTTP/\d\.\d")
_CUT_START = re.compile(rb"(?:[A-Z-]+(?: [^\r]*\r?)?)?")
_TYPES = {408: "timeout_error", 503: "unavailable_error"}


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """`connections` at once, 0 for any number. `timeout` is how many seconds a client has for a head, and how long a
    body may come slowly, 0 for any time. `held` is how many bytes of requests that have not come whole are kept, of all
    clients together."""

    connections: int = 0
    timeout: float = 60.0
    held: int = 32 * 2**20


class Clients:
    """What all connections share: their limits, and how much of these is taken."""

    def __init__(self, limits: ClientLimits | None = None) -> None:
        self.limits = limits or ClientLimits()
        self.held = 0  # bytes
        self.next = itertools.count(1).__next__  # numbers what begins to be kept: a loop's clock stands still meanwhile

    def is_full(self, connections: int) -> bool:
        return 0 < self.limits.connections < connections

    def make_room(self, connections: set[Any], newcomer: Any) -> bool:
        """Close connections on which no request is under way, and tell whether that is enough for the newcomer. A
        sixteenth goes at once, so that a flood of connections does not have them searched for each."""
        excess = len(connections) - self.limits.connections
        waiting = [one for one in connections if one is not newcomer and one.is_waiting()]
        for one in heapq.nsmallest(max(self.limits.connections // 16 + 1, excess), waiting, key=lambda one: one.rank()):
            one.transport.abort()
            connections.discard(one)
        return len(connections) <= self.limits.connections

    def make_space(self, connections: Iterable[Any]) -> None:
        """Give up kept requests until a sixteenth of the bytes is free. The oldest go first: a client that sends its
        request at once is never among them."""
        holders = [one for one in connections if one.holds()]
        for one in sorted(holders, key=lambda one: one.held_from):
            if self.held <= self.limits.held * 15 // 16:
                return
            one.give_up()


class Phase(enum.Enum):
    HEAD = enum.auto()  # the head of a request is awaited
    BODY = enum.auto()  # the body has not come whole; it may be answered already
    ANSWER = enum.auto()  # the answer is due; what comes meanwhile belongs to later requests
    LINGER = enum.auto()  # all is said; what comes is thrown away


class FramedConnection(HttpToolsProtocol):
    """One client's connection: a request at a time, each within the limits of `Clients`.

    Offers of another protocol are ignored, as RFC 9110 section 7.8 allows: uvicorn would take the body of such a
    request for that protocol's. Java's HTTP client offers HTTP/2 with whatever it sends."""

    def __init__(self, config: Config, *args: Any, clients: Clients | None = None, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._clients = clients or Clients()
        self._patience = self._clients.limits.timeout or math.inf
        self._phase = Phase.HEAD
        self._is_last = False  # the answer that is due, if any
        # What was read and is not dealt with yet
        self._parts: list[bytes] = []
        self._size = 0
        self._wanted: float = 0  # bytes in all with which it is looked at again
        self._is_timed = False  # a request has begun to come
        self.held_from = 0  # which of all that was kept it is
        # The body
        self._left: int | None = 0  # bytes of it that are to come; None for chunks
        self._tail = b""  # of the chunks that came, as far as it may begin an empty line
        self._beside = 0  # bytes of chunks that are no data, since the last data or size
        self._rest = 0  # bytes that may come after the answer
        # Instead of uvicorn's two timers a request there is one a connection, which looks at the clock when it comes
        self._deadline = math.inf
        self._timer: Any = None
        self._timer_at = math.inf
        self._waiting_since = self.loop.time()
        self._has_answered = False
        self._unread_since = math.inf  # what is written does not go out
        self._closing_since = math.inf  # as far as anybody has looked
        self._served: RequestResponseCycle | None = None  # by uvicorn, the latest one

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._phase.name} held={self._size} left={self._left}>"

    def is_waiting(self) -> bool:
        """Whether it waits for a request, throws away what is left of one, or has an answer that nobody reads."""
        now, patience = self.loop.time(), min(UNREAD_SECONDS, self._patience)
        if self.transport.is_closing():  # but not before all is read
            self._closing_since = min(self._closing_since, now)
            return now - self._closing_since > patience
        is_between = self._phase is not Phase.ANSWER if self._is_answered() else self._phase is Phase.LINGER
        return is_between or now - self._unread_since > patience

    def rank(self) -> tuple[bool, float]:
        """The lower, the sooner it is closed: those that never had an answer first, then those silent for longest."""
        return self._has_answered, self._waiting_since

    def holds(self) -> bool:
        """Whether bytes of a request are kept that has not come whole, or is not due yet."""
        return self._size > 0 and not self.transport.is_closing()

    def give_up(self) -> None:
        """What is kept."""
        if self._phase is Phase.ANSWER:  # the client has to send it again
            self._is_last = True
            self._release()
        else:
            self._refuse(503, "Too many requests have not come whole; try again later.")

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    # The connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow = self._flow = _Flow(transport)
        self._outlet = _Outlet(transport, self._close_behind_answer)
        self._expect_by(self.loop.time() + self._patience)
        if self._clients.is_full(len(self.connections)) and not self._clients.make_room(self.connections, self):
            self._refuse(503, "All connections are in use; try again later. --max-connections allows for more.")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._outlet.close = self.transport.close
        self._release()
        if self._served is not None:  # uvicorn tells the latest one alone
            _disconnect(self._served)
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = math.inf
        super().resume_writing()

    def shutdown(self) -> None:
        self._is_last = True
        if self._phase is Phase.HEAD and b"\r\n\r\n" not in b"".join(self._parts):
            self.transport.close()
        elif not self._is_answered():
            _make_last(self.cycle)

    def data_received(self, data: bytes) -> None:
        if self._parts:
            self._add(data)
            if self._size < self._wanted:
                return
            data = self._release()
        self._take(data)

    def _take(self, data: bytes) -> None:
        """Go on with what has come, as far as it belongs to one request."""
        for _ in range(PIECES):
            match self._phase:
                case Phase.HEAD:
                    taken = self._take_head(data)
                case Phase.BODY:
                    taken = self._take_body(data)
                case Phase.ANSWER:
                    self._keep(data, math.inf)
                    return
                case Phase.LINGER:
                    self._throw_away(len(data))
                    return
            if taken in (0, len(data)):  # none of it: it is kept
                return
            data = data[taken:]
        self.flow.pause_reading()
        self._keep(data, math.inf)
        self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """With what is kept."""
        if self._phase is not Phase.ANSWER and self._parts and not self.transport.is_closing():
            self.flow.resume_reading()
            self._take(self._release())

    def _keep(self, data: bytes, wanted: float) -> None:
        """Until there are so many bytes in all."""
        if self._phase is Phase.HEAD and not self._is_timed:
            self._is_timed, self.held_from = True, self._clients.next()
            self._expect_by(self.loop.time() + self._patience)
        elif self._phase is not Phase.HEAD and not self._parts:
            self.held_from = self._clients.next()
        self._wanted = wanted
        self._add(data)

    def _add(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self._clients.held += len(data)
        if self._phase is Phase.ANSWER and self._size > AHEAD_BYTES:
            self._flow.stop_reading()
        if self._clients.held > self._clients.limits.held:
            self._clients.make_space(self.connections)

    def _release(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self._clients.held -= self._size
        self._size = 0
        return data

    # A request

    def _take_head(self, data: bytes) -> int:
        """How many bytes were dealt with; 0 if all are kept until more come."""
        end = data.find(b"\r\n\r\n")
        if end < 0 and len(data) <= HEAD_BYTES:
            if _may_be_head(data):
                self._keep(data, len(data) + 1)
                return 0
            self._refuse(400, "This is no HTTP/1.1 request.")
            return len(data)
        head = data[: end + 4] if end >= 0 else data
        if len(head) > HEAD_BYTES or head.count(b"\n") > HEAD_LINES:
            limit = f"{HEAD_BYTES // 1024} KiB and {HEAD_LINES} lines"
            self._refuse(431, f"The request's head has more than {limit}; large cookies are a common cause.")
        elif not is_plain(head):
            self._refuse(400, "This is no HTTP/1.1 request: a line of its head does not end with CR LF.")
        else:
            self._feed(without_offers(head))
        return len(head)

    def _take_body(self, data: bytes) -> int:
        if self._left is None:
            taken = self._next_chunks(data)
        else:
            taken = min(len(data), self._left)
            self._left -= taken
        self._feed(data[:taken])
        if self._phase is Phase.BODY:
            if self._beside > HEAD_BYTES:
                self._refuse(400, "The extensions or trailers of the request's body are too long.")
            elif self._is_answered():
                self._throw_away(taken)
            else:
                now = self.loop.time()
                self._deadline = min(now + self._patience, self._deadline + taken / SLOWEST)
        return taken

    def _next_chunks(self, data: bytes) -> int:
        """How many bytes may be fed without reaching into another request: chunks end with an empty line."""
        data = data[:PIECE_BYTES]
        end = (self._tail + data).find(b"\r\n\r\n")
        taken = len(data) if end < 0 else end + 4 - len(self._tail)
        self._tail = (self._tail + data)[-3:] if end < 0 else b""
        self._beside += taken
        return taken

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            log.debug("%s", exc)
            self._refuse(400, "This is no HTTP/1.1 request.")

    def _throw_away(self, size: int) -> None:
        self._rest -= size
        if self._rest < 0:
            self.transport.abort()

    # What the parser tells

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is Phase.HEAD:  # else it is a trailer: RFC 9110 section 6.5.1 allows to pass it over
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._phase = Phase.BODY
        self._is_timed = False
        self._left, self._tail, self._beside = _length(self.headers), b"", 0
        self._expect_by(self.loop.time() + self._patience)
        super().on_headers_complete()
        if self._is_last or not self.cycle.keep_alive or self.cycle.scope["http_version"] != "1.1":
            _make_last(self.cycle)

    def on_chunk_header(self) -> None:
        self._beside = 0

    def on_body(self, body: bytes) -> None:
        self._beside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._is_answered():
            self._await_head()
        else:
            self._phase = Phase.ANSWER
            self._deadline = math.inf

    # The answer

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        cycle.transport = self._outlet  # type: ignore[assignment]
        if cycle.scope["http_version"] != "1.1":
            app = _unchunked(cycle, app)
        if self._left is None or self._left > LASTING_BODY:
            app = _last_if_early(cycle, app)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._phase is Phase.LINGER:
            return
        self._flow.read_on()
        if self._is_last:
            self._close_behind_answer()
        elif self._phase is Phase.ANSWER:
            self._await_head()
        else:
            self._rest = LINGER_BYTES

    def _await_head(self) -> None:
        self._phase, self._has_answered = Phase.HEAD, True
        self._waiting_since = now = self.loop.time()
        self._expect_by(now + self.timeout_keep_alive)
        if self._parts:
            self.loop.call_soon(self._go_on)

    def _close_behind_answer(self) -> None:
        """So that the client can read the answer, although it may still send."""
        if self._phase is Phase.BODY or self.flow.read_paused:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        if self.transport.is_closing():
            return
        self._phase = Phase.LINGER
        self._release()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._rest = LINGER_BYTES
        self._flow.read_on()
        self._expect_by(self.loop.time() + LINGER_SECONDS)

    def _refuse(self, status: int, message: str) -> None:
        """Answer what cannot be read any further, in the shape that most clients know, and close."""
        if self.transport.is_closing() or self._phase is Phase.LINGER:
            return
        if not self._is_answered():
            _disconnect(self.cycle)
            if self.cycle.response_started:
                self.transport.close()
                return
        error = {"code": status, "message": message, "type": _TYPES.get(status, "invalid_request_error"), "param": None}
        body = json.dumps({"error": error}).encode()
        retry = b"retry-after: 5\r\n" if status == 503 else b""
        lines = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[status], retry, lines, body)))
        self._linger()

    # Time

    def _unset_keepalive_if_required(self) -> None:
        """uvicorn's timer, which is not used."""

    def _expect_by(self, when: float) -> None:
        """Something has to come by then."""
        self._deadline = when
        if when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self.loop.call_at(when, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self.loop.time()
        if self._deadline > now:
            self._expect_by(self._deadline)
        elif self._phase is Phase.BODY and self.flow.read_paused:  # it is not the client who is slow
            self._expect_by(now + self._patience)
        elif self._is_timed or (self._phase is Phase.BODY and not self._is_answered()):
            self._refuse(408, "The request did not come in time; --client-timeout allows for more.")
        else:
            self.transport.abort() if self._phase is Phase.LINGER else self.transport.close()


class _Flow(FlowControl):
    """Reading that is stopped goes on only when the connection says so; uvicorn resumes it as soon as an application
    waits for something."""

    _is_stopped = False

    def stop_reading(self) -> None:
        self._is_stopped = True
        self.pause_reading()

    def read_on(self) -> None:
        self._is_stopped = False
        self.resume_reading()

    def resume_reading(self) -> None:
        if not self._is_stopped:
            super().resume_reading()


class _Outlet:
    """What an answer is written to. How it ends is the connection's business."""

    def __init__(self, transport: Any, close: Any) -> None:
        self.write, self.is_closing, self.close = transport.write, transport.is_closing, close


def _disconnect(cycle: RequestResponseCycle) -> None:
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()


def _make_last(cycle: RequestResponseCycle) -> None:
    """Its answer says that the connection ends with it, which uvicorn says by itself only since 0.53."""
    cycle.keep_alive = False
    cycle.default_headers = [*cycle.default_headers, (b"connection", b"close")]


def _length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Of the body, as the parser has understood these headers; None for chunks."""
    found = dict(headers)
    return None if b"transfer-encoding" in found else int(found.get(b"content-length", 0))


def is_plain(head: bytes) -> bool:
    """Whether each line ends with CR LF, and has neither inside."""
    return head.count(b"\n") == head.count(b"\r\n") == head.count(b"\r")


def _may_be_head(data: bytes) -> bool:
    """Whether this may be the beginning of a head, so that a client of another protocol need not wait for its error."""
    whole = data[:-1] if data.endswith(b"\r") else data
    start, end, _ = data.lstrip(b"\r\n").partition(b"\r\n")
    return is_plain(whole) and bool((_START if end else _CUT_START).fullmatch(start))


def without_offers(data: bytes) -> bytes:
    """A head, and what may stand behind it, without its offers of other protocols."""
    end = data.index(b"\r\n\r\n")
    return _OFFER.sub(b"", data[:end]) + data[end:] if _OFFER.search(data, 0, end) else data


def _last_if_early(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """An answer that begins before the whole body has come is the last one: the rest is not waited for."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: MutableMapping[str, Any]) -> None:
            if cycle.more_body and not cycle.response_started:
                _make_last(cycle)
            await send(message)

        await app(scope, receive, told)

    return answer


def _unchunked(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """HTTP/1.0, which nginx speaks to whoever is behind it, knows no chunks: an answer of which the length is not told
    ends with the connection. uvicorn would send it in chunks."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        is_told = True

        async def unchunked(message: MutableMapping[str, Any]) -> None:
            nonlocal is_told
            if message["type"] == "http.response.start":
                is_told = b"content-length" in dict(message["headers"])
            if not is_told:
                cycle.chunked_encoding = False
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, unchunked)

    return answer
