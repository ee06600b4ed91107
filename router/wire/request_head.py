"""The head of a request to a child, ready to be sent.

The same head is sent with many bodies, so all that does not change is encoded once, when the RequestHead is made.
`proxy.head` makes one for each distinct head of a client; `Upstream` sends it.
"""

from __future__ import annotations

from router.wire.headers import Headers


class RequestHead:
    """Method, target and headers of a request.

    `target` is path and query as they go over the wire. `headers` are end-to-end ones, names in lower case, without
    host, authorization and content-length: `encoded` adds these three.

        head = RequestHead("POST", b"/v1/chat/completions", [(b"content-type", b"application/json")])
        data = head.encoded(child.key, [(b"x-request-id", b"17")], len(body)) + body
    """

    __slots__ = ("_lines", "_start", "is_bodiless", "method")

    def __init__(self, method: str, target: bytes, headers: Headers) -> None:
        self.method = method
        self.is_bodiless = method not in ("POST", "PUT", "PATCH")
        self._start = b"%b %b HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer " % (method.encode(), target)
        self._lines = b"\r\n" + b"".join([b"%b: %b\r\n" % header for header in headers])

    def __repr__(self) -> str:
        return f"<RequestHead {self.method}>"

    def beginning(self, key: str) -> bytes:
        """The bytes of the head as far as they are the same for all requests to one child: own headers and the length
        may follow, line by line."""
        return b"".join((self._start, key.encode(), self._lines))

    def encoded(self, key: str, own_headers: Headers, length: int) -> bytes:
        """The bytes of the head, with the blank line that ends it.

        `key` is the child's key, `own_headers` are those of this one request, `length` is the body's, in bytes.
        """
        lines = [self._start, key.encode(), self._lines, *[b"%b: %b\r\n" % header for header in own_headers]]
        lines.append(b"\r\n" if self.is_bodiless and not length else b"content-length: %d\r\n\r\n" % length)
        return b"".join(lines)
