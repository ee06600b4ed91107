"""The head of a request, and what follows from it: query, content type, request id, the head for the child.

All of that is worked out once for a head. Clients send the same head with one body after another, so the fast path
(`server.connection`) keeps a `Head` and uses it again. There a head is also parsed here; elsewhere uvicorn parses it.
"""

from __future__ import annotations

import re
from functools import cached_property
from random import getrandbits
from urllib.parse import unquote

import httptools
from starlette.datastructures import QueryParams
from starlette.types import Scope

from router.records.record import clean
from router.wire.headers import Headers, end_to_end
from router.wire.request_head import RequestHead

# llama-server takes 100 headers, some of which are the router's own, and lines of 8,192 bytes (cpp-httplib,
# CPPHTTPLIB_HEADER_MAX_COUNT and _MAX_LENGTH). It answers more than that with a 400 that gives no reason.
MAX_HEADERS = 90
MAX_HEADER_BYTES = 8000

ID = "router.request_id"  # of an ASGI scope
MAX_ID_BYTES = 128
MAX_TRACE = 100  # bytes of a traceparent, which has 55

# The names under which OpenAI's clients and Anthropic's read the request id.
REQUEST_ID_HEADERS = (b"x-request-id", b"request-id")

# Headers for the router alone: its address, keys, origins and framing. `accept-encoding`: events must come
# uncompressed. `content-encoding`: the body goes to the child unpacked. `x-conversation-id`: it makes a llama-server
# generate on when the client has left, so it is sent only where the lease stays as long.
_NOT_FORWARDED = frozenset(
    b"host authorization x-api-key origin content-length content-encoding expect accept-encoding x-request-id "
    b"x-conversation-id".split()
)

_AUTHORITY = re.compile(rb"[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)
_NOT_FOR_FAST_PATH = frozenset((b"expect", b"transfer-encoding", b"content-encoding"))


class Head:
    """The head of a request.

    - `request_id` is the one that the request has got already, if it is the head of one request alone.
    - `path` is decoded.
    - `target` is path and query as they came.
    - `headers` have lower-case names.
    """

    request_id = b""

    def __init__(self, method: str, path: str, target: bytes, headers: Headers) -> None:
        self.method, self.path, self.target, self.headers = method, path, target, headers

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method} {self.path} headers={len(self.headers)}>"

    @classmethod
    def from_scope(cls, scope: Scope) -> Head:
        """The head of an ASGI request."""
        target, query = scope["raw_path"], scope["query_string"]
        head = cls(scope["method"], scope["path"], target + b"?" + query if query else target, scope["headers"])
        head.request_id = scope.get(ID, b"")
        return head

    def header(self, name: str) -> str:
        """The value of a header, "" if it is missing. The last one counts."""
        return self._values.get(name.lower().encode(), b"").decode("latin-1")

    def query(self, name: str) -> str | None:
        return self._query.get(name) if self._query else None

    @cached_property
    def content_type(self) -> str:
        return self.header("content-type")

    @cached_property
    def client_request_id(self) -> bytes:
        """The request id that the client chose, if it is fit to be repeated, else b""."""
        return _fit_to_repeat(self._values.get(b"x-request-id", b""))

    @cached_property
    def shown_path(self) -> str:
        """The path, for people."""
        return clean(self.path)

    @cached_property
    def forwarded_for(self) -> bytes:
        """The addresses that proxies say they have forwarded it for, the last added by the nearest proxy."""
        if b"x-forwarded-for" not in self._values:
            return b""
        return b", ".join(value for name, value in self.headers if name == b"x-forwarded-for")

    @cached_property
    def agent(self) -> str:
        """What the client calls itself, for people."""
        return clean(self.header("user-agent"))

    @cached_property
    def trace(self) -> str:
        return self.header("traceparent")[:MAX_TRACE] if b"traceparent" in self._values else ""

    @cached_property
    def exceeds_engine_limits(self) -> bool:
        """Whether llama-server would refuse a head this large."""
        longest = max((len(name) + len(value) for name, value in self.headers), default=0)
        return len(self.headers) > MAX_HEADERS or longest > MAX_HEADER_BYTES

    @cached_property
    def forwarded(self) -> RequestHead:
        """The part that goes to the child."""
        return self._without(_NOT_FORWARDED)

    @cached_property
    def forwarded_untraced(self) -> RequestHead:
        """The same without `traceparent`, for a child that gets another one."""
        return self._without(_NOT_FORWARDED | {b"traceparent"})

    def _without(self, names: frozenset[bytes]) -> RequestHead:
        headers = [header for header in end_to_end(self.headers) if header[0] not in names]
        return RequestHead(self.method, self.target, headers)

    @cached_property
    def _values(self) -> dict[bytes, bytes]:
        return dict(self.headers)

    @cached_property
    def _query(self) -> QueryParams | None:
        query = self.target.partition(b"?")[2]
        return QueryParams(query) if query else None


def request_id_of(head: Head) -> bytes:
    """The request's id: what it has got already, the client's, or a new one."""
    return head.request_id or head.client_request_id or _new_id()


def identify(scope: Scope, given: bytes) -> bytes:
    """Give the ASGI request an id, which its heads have from now on. `given` is the client's, if it chose one."""
    scope[ID] = id = _fit_to_repeat(given) or _new_id()
    return id


def _fit_to_repeat(id: bytes) -> bytes:
    return id if len(id) <= MAX_ID_BYTES and id.isascii() else b""


def _new_id() -> bytes:
    return b"%016x" % getrandbits(64)


class _HeadReader:
    """The callbacks of httptools."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.is_complete = True


def with_host_of(url: bytes, headers: Headers) -> Headers:
    """These headers, with the host that the request target names, if it names one. It replaces that of the header
    `Host` (RFC 9112 section 3.2.2). A `Host` that differs is kept as well: `access.guard` then finds two."""
    authority = _AUTHORITY.match(url)
    if not authority:
        return headers
    host = (b"host", authority[1].lower())
    return [*(header for header in headers if (header[0], header[1].lower()) != host), host]


def parse_head(data: bytes, length: int) -> tuple[Head, bool] | None:
    """The head in `data`, read as uvicorn reads it, and whether the connection is kept after the request.

    None for all but an HTTP/1.1 request with a body of `length` bytes and nothing special about it.
    """
    reader = _HeadReader()
    parser = httptools.HttpRequestParser(reader)
    try:
        # The parser forgets `keep_alive` with the last byte of a request without a body, so it is read before.
        parser.feed_data(data[:-1])
        keep_alive = parser.should_keep_alive()
        parser.feed_data(data[-1:])
        url = httptools.parse_url(reader.url)
        path = unquote((url.path or b"").decode("ascii"))
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError):
        return None
    is_plain = _NOT_FOR_FAST_PATH.isdisjoint(name for name, _ in reader.headers)
    has_length = (b"content-length", b"%d" % length) in reader.headers
    if not (reader.is_complete and is_plain and has_length and path and parser.get_http_version() == "1.1"):
        return None
    target = url.path + b"?" + url.query if url.query else url.path
    return Head(parser.get_method().decode(), path, target, with_host_of(reader.url, reader.headers)), keep_alive
