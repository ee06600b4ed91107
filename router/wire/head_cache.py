"""Heads of HTTP/1.1 messages that come again: a client, and a child too, says the same before every body, but for the
body's length. What was made of a head is found by its bytes, and nothing is parsed twice."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")
Known = tuple[bytes, bytes]  # a head, without the digits of the length that stand between


def message(data: bytes) -> tuple[Known, int, bytes] | None:
    """What begins these data: its head, the length of the body, and what has come of that, or more. None where the head
    has not come whole, or does not tell a length the way clients and engines write it.

    Of equal heads the lengths stand in the same place: it is the first one that is meant, and no digits make another.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    before, name, rest = head.partition(b"\r\nContent-Length: ")
    if not name:
        before, name, rest = head.partition(b"\r\ncontent-length: ")
    digits, _, after = rest.partition(b"\r\n")
    if not (end and digits.isdigit()) or len(digits) > 15:
        return None
    return (before, after), int(digits), body


class Heads(dict[Known, T], Generic[T]):
    """What was made of heads that are not too long. It forgets all when it is full: heads of which each is another one
    are not worth being remembered."""

    MOST = 256
    LONGEST = 8192  # bytes

    def learn(self, head: Known, value: T) -> None:
        if len(self) >= self.MOST:
            self.clear()
        if sum(map(len, head)) <= self.LONGEST:
            self[head] = value
