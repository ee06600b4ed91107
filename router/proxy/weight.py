"""How much work a JSON body is, before it is read: what is made into objects is bounded by their number.

A parser written in C holds the interpreter from its first byte to its last, in whatever thread it runs. Strings cost it
next to nothing, objects do: 16 MiB of `[],` are 5 million lists, which take seconds. So the signs between values are
counted first, piece by piece, which others can come between.
"""

from __future__ import annotations

from router.errors import InvalidRequest

LIGHT = 64 * 1024  # bytes of a body that is parsed at once, whatever it holds
PIECE = 32 * 1024  # bytes that are counted at a time
MOST = 1_000_000
PASSED_OVER = 32 * MOST  # what is passed over costs a thirtieth, and still some ns for each value
# What each sign weighs, in tens of nanoseconds or so: a value; a list or an object; a member, whose name is made too.
_WEIGHTS = ((b",", 1), (b"[", 2), (b"{", 2), (b":", 4))


def weight(body: bytes | memoryview, most: int = MOST) -> int:
    """Of all that the JSON text holds, or a little more than `most`: then the rest was not looked at. Signs within
    strings do not count. Of what is no JSON, it is the weight of at least what comes before the first mistake."""
    found, start, is_string = 0, 0, False
    while start < len(body) and found <= most:
        piece = bytes(body[start : start + PIECE])
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # its last sign is half of an escape
            piece = bytes(body[start : start + PIECE + 1])
        start += len(piece)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        outside = b'"'.join(parts[is_string::2])
        found += sum(outside.count(sign) * weight for sign, weight in _WEIGHTS)
        is_string ^= len(parts) % 2 == 0
    return found


def check(body: bytes | memoryview, what: str = "The request body", most: int = MOST) -> None:
    """Raises InvalidRequest for what is too much to be made into objects."""
    if len(body) > LIGHT and _bound(body, most) > most and weight(body, most) > most:
        raise InvalidRequest(
            f"{what} holds too many values: lists, objects and numbers are counted, and long texts are not. "
            "Send fewer of them in one request."
        )


def _bound(body: bytes | memoryview, most: int) -> int:
    """No less than its weight, and soon found where there is little in it."""
    found = 0
    for start in range(0, len(body), PIECE):
        piece = bytes(body[start : start + PIECE])
        found += sum(piece.count(sign) * weight for sign, weight in _WEIGHTS)
        if found > most:
            break
    return found
