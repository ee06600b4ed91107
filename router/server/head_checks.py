"""PURE: checks on the bytes of a request head before any parser sees them.

Parsers are lenient in different ways, and a proxy in front of the router may read a head differently. So a head must be
plain: every line ends with CR LF, and it is not too long. `framing` and `connection` call this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_HEAD_BYTES = 64 * 1024  # also of extensions and of trailers at one place of a chunked body
MAX_HEAD_LINES = 256

_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*(?:\r\n[ \t][^\r\n]*)*", re.IGNORECASE)
_REQUEST_LINE = re.compile(rb"[A-Z-]+ \S+ HTTP/\d\.\d")
_BEGINNING_OF_REQUEST_LINE = re.compile(rb"(?:[A-Z-]+(?: [^\r]*\r?)?)?")


def is_too_long(head: bytes) -> bool:
    return len(head) > MAX_HEAD_BYTES or head.count(b"\n") > MAX_HEAD_LINES


def has_plain_lines(head: bytes) -> bool:
    """Whether each line ends with CR LF, and there is no other CR or LF."""
    return head.count(b"\n") == head.count(b"\r\n") == head.count(b"\r")


def may_be_head(data: bytes) -> bool:
    """Whether this can be the beginning of a request head. If not, the client speaks another protocol, and gets its
    error without waiting for the timeout."""
    whole = data[:-1] if data.endswith(b"\r") else data
    start, end, _ = data.lstrip(b"\r\n").partition(b"\r\n")
    return has_plain_lines(whole) and bool((_REQUEST_LINE if end else _BEGINNING_OF_REQUEST_LINE).fullmatch(start))


def without_upgrade(data: bytes) -> bytes:
    """A head, and what may follow it, without its `Upgrade` headers."""
    end = data.index(b"\r\n\r\n")
    return _UPGRADE.sub(b"", data[:end]) + data[end:] if _UPGRADE.search(data, 0, end) else data


def body_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """The length of the body in bytes, None for a chunked one. The parser has accepted these headers."""
    found = dict(headers)
    return None if b"transfer-encoding" in found else int(found.get(b"content-length", 0))
