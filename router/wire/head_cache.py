"""Message heads that were seen before, found by their bytes.

A client sends the same head before every body, except for the body's length, and so does a child. The cache keeps what
was made of a head, and its key leaves the length out: such a head is parsed once. The client's side uses it
for requests (`server.connection`), the child's side for responses (`response`).
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")
HeadKey = tuple[bytes, bytes]  # the head before and after the digits of its Content-Length


def split_message(data: bytes) -> tuple[HeadKey, int, bytes] | None:
    """Split the start of an HTTP/1.1 message into the key of its head, its Content-Length, and what follows the head.

    The bytes that follow may be fewer than the length, or more. Returns None if the head is incomplete, or does not
    give a length in the way that clients and engines write it.

    Two heads with the same key have their length in the same place: the first Content-Length counts, and because digits
    alone are left out, no value of the length can turn one header into another.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    before, name, rest = head.partition(b"\r\nContent-Length: ")
    if not name:
        before, name, rest = head.partition(b"\r\ncontent-length: ")
    digits, _, after = rest.partition(b"\r\n")
    if not (end and digits.isdigit()) or len(digits) > 15:
        return None
    return (before, after), int(digits), body


class HeadCache(dict[HeadKey, T], Generic[T]):
    """What was made of each head; a head that is too long is not kept.

    A full cache is emptied: if there are that many distinct heads, none of them is worth remembering.
    """

    MAX_HEADS = 256
    MAX_KEY_BYTES = 8192

    def __repr__(self) -> str:
        return f"<HeadCache {len(self)} heads>"

    def remember(self, key: HeadKey, value: T) -> None:
        if len(self) >= self.MAX_HEADS:
            self.clear()
        if sum(map(len, key)) <= self.MAX_KEY_BYTES:
            self[key] = value
