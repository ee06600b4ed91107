"""Heads of HTTP/1.1 messages that come again: a client, and a child too, says the same before every body, but for the
body's length. What was made of a head is found by its bytes, and nothing is parsed twice."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


def message(data: bytes) -> tuple[bytes, int, int] | None:
    """What begins these data: its head without the length of the body, and where the body starts and ends. None where
    the head has not come whole, or does not tell a length the way clients and engines write it.

    Of equal heads the lengths stand in the same place: it is the first one that is meant, and no digits make another.
    """
    end = data.find(b"\r\n\r\n")
    at = data.find(b"\r\nContent-Length: ", 0, end)
    if at < 0:
        at = data.find(b"\r\ncontent-length: ", 0, end)
    if at < 0 or end < 0:
        return None
    at += 18
    stop = data.find(b"\r", at)
    digits = data[at:stop]
    if not digits.isdigit() or stop - at > 15:
        return None
    start = end + 4
    return data[:at] + data[stop:end], start, start + int(digits)


class Heads(dict[bytes, T], Generic[T]):
    """What was made of heads. It forgets all when it is full: heads of which each is another one are not worth being
    remembered."""

    MOST = 256

    def learn(self, head: bytes, value: T) -> None:
        if len(self) >= self.MOST:
            self.clear()
        self[head] = value
