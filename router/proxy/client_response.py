"""The response to a client: its headers, and its body in whole events.

A stream can fail in the middle. Then an error must follow as an event of its own, so an event or a line is sent only
when it is whole. `proxied_request` calls this.
"""

from __future__ import annotations

from functools import lru_cache

from starlette.types import Send

from router.proxy.head import REQUEST_ID_HEADERS
from router.wire.headers import Headers
from router.wire.response import ResponseHead

NDJSON = b"application/x-ndjson"
UNBUFFERED = (b"x-accel-buffering", b"no")  # tells nginx to pass each event on as it comes
_NOT_FOR_EVENTS = (b"content-length", UNBUFFERED[0])
MAX_EVENT_BYTES = 1024 * 1024  # of an event that is held back until it is whole


class ClientResponse:
    """What has been sent to the client so far.

    A response with a `content-type` of events or lines is sent in whole events. An event that is longer than
    MAX_EVENT_BYTES ends this for good: the rest goes out as it comes.
    """

    def __init__(self, send: Send, request_id: bytes, notes: Headers = ()) -> None:
        """`notes` are headers that the answer has besides those of the child."""
        self.request_id = request_id
        self._notes = notes
        self.is_started = False
        self.status = 0
        self._separators: tuple[bytes, ...] = ()
        self._send = send
        self._partial_event = b""

    def __repr__(self) -> str:
        state = "started" if self.is_started else "not started"
        return f"<{type(self).__name__} {state} events={self.has_events} held={len(self._partial_event)}>"

    @property
    def has_events(self) -> bool:
        """Whether an event can still follow what has been sent."""
        return bool(self._separators)

    async def start(self, status: int, headers: Headers) -> None:
        """Sends the head. `headers` are those of the child."""
        self._separators = event_separators(headers)
        headers = [*client_headers(headers), *((name, self.request_id) for name in REQUEST_ID_HEADERS), *self._notes]
        if self._separators or status in (204, 304):
            headers = [header for header in headers if header[0] not in _NOT_FOR_EVENTS]
        if self._separators:
            headers.append(UNBUFFERED)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        # Only now: `send` waits for a slow client, and may be cancelled while it waits.
        self.is_started, self.status = True, status

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Sends a piece of the body, except for an event at its end that is not whole. `last`: all of it goes out."""
        if self._separators:
            data = self._partial_event + data if self._partial_event else data
            data, self._partial_event = (data, b"") if last else split_at_event(data, self._separators)
            if len(self._partial_event) > MAX_EVENT_BYTES:
                data, self._partial_event, self._separators = data + self._partial_event, b"", ()
        if data or last:
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    def drop_partial_event(self) -> None:
        """The rest of this event will not come."""
        self._partial_event = b""


@lru_cache(maxsize=64)
def header_lines(head: ResponseHead) -> bytes | None:
    """The headers for the client as bytes, without length and request id. None for a response that cannot be sent in
    one piece: it has no body, or it consists of events."""
    if head.status in (204, 304) or event_separators(head.headers):
        return None
    return b"".join([b"%b: %b\r\n" % header for header in client_headers(head.headers)])


def client_headers(headers: Headers) -> Headers:
    """A child's headers as the client gets them. CORS headers and request ids are the router's own."""
    return [
        header
        for header in headers
        if not header[0].startswith(b"access-control-") and header[0] not in REQUEST_ID_HEADERS
    ]


def event_separators(headers: Headers) -> tuple[bytes, ...]:
    """What ends an event or a line in a response with these headers. Empty for any other response: nothing can be
    added to its body."""
    kind = dict(headers).get(b"content-type", b"")
    if kind.startswith(b"text/event-stream"):
        return b"\n\n", b"\r\n\r\n"
    return (b"\n",) if kind.startswith(NDJSON) else ()


def split_at_event(data: bytes, separators: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """The whole events in `data`, and the beginning of the next one."""
    if data.endswith(separators):
        return data, b""
    end = max(len(data) - len(data.rpartition(separator)[2]) for separator in separators)
    return data[:end], data[end:]
