"""The head of a request: what is said before its body, and how it is read where uvicorn does not."""

from __future__ import annotations

import re
from functools import cached_property
from urllib.parse import unquote

import httptools
from starlette.datastructures import QueryParams
from starlette.types import Scope

from router.wire.headers import Headers, end_to_end
from router.wire.request_head import RequestHead

# An engine takes 100 headers, some of which are the router's own, and lines of 8,192 bytes (cpp-httplib,
# CPPHTTPLIB_HEADER_MAX_COUNT and _MAX_LENGTH); what is more it answers with a 400 that says nothing.
MOST_HEADERS = 90
LONGEST_HEADER = 8000

# Said to the router alone: its address, keys, origins and framing. And events must come uncompressed. A conversation's
# id makes a llama-server generate on when the client has left, so it is told only where the lease stays as long.
_NOT_FORWARDED = frozenset(
    b"host authorization x-api-key origin content-length expect accept-encoding x-request-id x-conversation-id".split()
)

_AUTHORITY = re.compile(rb"[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)
_SPECIAL = frozenset((b"expect", b"transfer-encoding"))


class Head:
    """`path` is decoded, `target` is path and query as they came, and the `headers` have lower-case names. What follows
    from these alone is worked out once, for the same head comes again with one body after another."""

    def __init__(self, method: str, path: str, target: bytes, headers: Headers) -> None:
        self.method, self.path, self.target, self.headers = method, path, target, headers

    @classmethod
    def of(cls, scope: Scope) -> Head:
        target, query = scope["raw_path"], scope["query_string"]
        return cls(scope["method"], scope["path"], target + b"?" + query if query else target, scope["headers"])

    def header(self, name: str) -> str:
        """Its value, the last one's where there are several, or nothing."""
        return self._values.get(name.lower().encode(), b"").decode("latin-1")

    def query(self, name: str) -> str | None:
        return self._query.get(name) if self._query else None

    @cached_property
    def content_type(self) -> str:
        return self.header("content-type")

    @cached_property
    def request_id(self) -> bytes:
        """The client's own, where it is fit to be repeated."""
        given = self._values.get(b"x-request-id", b"")
        return given if len(given) <= 128 and given.isascii() else b""

    @cached_property
    def is_too_much(self) -> bool:
        """For an engine."""
        longest = max((len(name) + len(value) for name, value in self.headers), default=0)
        return len(self.headers) > MOST_HEADERS or longest > LONGEST_HEADER

    @cached_property
    def forwarded(self) -> RequestHead:
        """What a child gets of it."""
        headers = [header for header in end_to_end(self.headers) if header[0] not in _NOT_FORWARDED]
        return RequestHead(self.method, self.target, headers)

    @cached_property
    def _values(self) -> dict[bytes, bytes]:
        return dict(self.headers)

    @cached_property
    def _query(self) -> QueryParams | None:
        query = self.target.partition(b"?")[2]
        return QueryParams(query) if query else None


class _Reader:
    """What httptools reads."""

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
    """These headers, where a request says the host in its target too: that counts, RFC 9112 section 3.2.2. Another one
    in `Host` stays beside it, so that there are two."""
    authority = _AUTHORITY.match(url)
    if not authority:
        return headers
    host = (b"host", authority[1].lower())
    return [*(header for header in headers if (header[0], header[1].lower()) != host), host]


def read(data: bytes, length: int) -> tuple[Head, bool] | None:
    """A head, as uvicorn reads it, and whether the connection is kept after it; None where the request is no HTTP/1.1
    or more than a body of this length."""
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(data[:-1])
        keep_alive = parser.should_keep_alive()  # where there is no body this is forgotten with the last byte
        parser.feed_data(data[-1:])
        url = httptools.parse_url(reader.url)
        path = unquote((url.path or b"").decode("ascii"))
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError):
        return None
    is_plain = _SPECIAL.isdisjoint(name for name, _ in reader.headers)
    is_told = (b"content-length", b"%d" % length) in reader.headers
    if not (reader.is_complete and is_plain and is_told and path and parser.get_http_version() == "1.1"):
        return None
    target = url.path + b"?" + url.query if url.query else url.path
    return Head(parser.get_method().decode(), path, target, with_host_of(reader.url, reader.headers)), keep_alive
