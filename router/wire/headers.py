"""Header fields as the data path keeps them: pairs of bytes, and which of them may cross a proxy.

`request_head` and `response` use it for what goes to a child and comes back, `proxy.head` for what a client sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

Headers = Sequence[tuple[bytes, bytes]]  # (name, value), in the order of the message

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection "
    b"te trailer transfer-encoding upgrade".split()
)


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers without those that concern one connection only (RFC 9110 section 7.6.1). Names are in lower case."""
    headers = list(headers)
    dropped: Collection[bytes] = HOP_BY_HOP
    for name, value in headers:
        if name == b"connection":
            dropped = {*dropped, *(token.strip().lower() for token in value.split(b","))}
    return [header for header in headers if header[0] not in dropped]
