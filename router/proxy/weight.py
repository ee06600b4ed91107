"""How much work a JSON body is, known before it is parsed.

A parser written in C holds the interpreter from its first byte to its last, whatever thread it runs in. Strings cost it
next to nothing, objects do: 16 MiB of `[],` are 5 million lists, which take seconds. So the signs between values are
counted first, a chunk at a time, and other threads can run between two chunks. `body` and `routing` call this.
"""

from __future__ import annotations

from router.errors import InvalidRequest

LIGHT_BYTES = 64 * 1024  # a body up to this size is parsed at once, whatever it holds
CHUNK_BYTES = 32 * 1024  # counted at a time
MAX_WEIGHT = 1_000_000
# A value that is skipped costs a thirtieth of one that becomes an object, and that is still some nanoseconds.
MAX_SKIPPED_WEIGHT = 32 * MAX_WEIGHT
# About ten nanoseconds each: a value; a list or an object; a member, whose name becomes an object too.
_WEIGHTS = ((b",", 1), (b"[", 2), (b"{", 2), (b":", 4))


def weight(body: bytes | memoryview, most: int = MAX_WEIGHT) -> int:
    """The weight of a JSON text. Signs within strings do not count.

    The count stops soon after `most`. If the text is not valid JSON, the result is at least the weight of what comes
    before the first mistake.
    """
    found, start, is_string = 0, 0, False
    while start < len(body) and found <= most:
        piece = bytes(body[start : start + CHUNK_BYTES])
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # the last sign is the first half of an escape
            piece = bytes(body[start : start + CHUNK_BYTES + 1])
        start += len(piece)
        # Without escapes, each quote that is left begins or ends a string.
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        # Every other part is outside of strings. If the chunk begins inside a string, that is the second one.
        outside = b'"'.join(parts[is_string::2])
        found += sum(outside.count(sign) * weight for sign, weight in _WEIGHTS)
        # An even number of parts means an odd number of quotes: the next chunk begins on the other side.
        is_string ^= len(parts) % 2 == 0
    return found


def check(body: bytes | memoryview, what: str = "The request body", most: int = MAX_WEIGHT) -> None:
    """Raises InvalidRequest if the body would become too many objects. `what` is its name in the message."""
    if len(body) > LIGHT_BYTES and _upper_bound(body, most) > most and weight(body, most) > most:
        raise InvalidRequest(
            f"{what} holds too many values: lists, objects and numbers are counted, and long texts are not. "
            "Send fewer of them in one request."
        )


def _upper_bound(body: bytes | memoryview, most: int) -> int:
    """At least the weight of the body; signs within strings count too. Faster than `weight`, and enough for most
    bodies."""
    found = 0
    for start in range(0, len(body), CHUNK_BYTES):
        piece = bytes(body[start : start + CHUNK_BYTES])
        found += sum(piece.count(sign) * weight for sign, weight in _WEIGHTS)
        if found > most:
            break
    return found
