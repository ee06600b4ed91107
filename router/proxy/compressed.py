"""A compressed request body, read within the limits of what it unpacks to.

A few bytes may unpack to gigabytes, so a body is unpacked a piece at a time: each piece is counted before the next one
is made. `body` calls this for a request with `Content-Encoding`; the child gets the body unpacked.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Sequence

from router import threads
from router.errors import InvalidRequest, UnsupportedType

PACKED_BYTES = 2**16  # given to zlib at a time, because it copies what it leaves over
PIECE_BYTES = 2**20  # unpacked at a time
SMALL_BYTES = 2**10  # a body up to this size unpacks to one piece at most, so it needs no thread

# The window bits of zlib: 31 is gzip, 15 is zlib, which HTTP calls deflate, and -15 is deflate without a header, which
# some clients send in its place (RFC 9110, section 8.4.1.2).
_GZIP, _ZLIB, _RAW = 31, 15, -15


def coding_of(values: Sequence[str]) -> str:
    """The coding that the values of `Content-Encoding` name: gzip, deflate, or "" for none. Raises UnsupportedType."""
    names = [name for value in values for word in value.split(",") if (name := word.strip().lower()) != "identity"]
    match [name for name in names if name]:
        case []:
            return ""
        case ["gzip" | "x-gzip"]:
            return "gzip"
        case ["deflate"]:
            return "deflate"
    raise UnsupportedType(
        f"A request body may be compressed with gzip or deflate, not with {', '.join(names)[:80]!r}. Send it as it is."
    )


async def unpacked(body: bytes, coding: str) -> AsyncIterator[bytes]:
    """The pieces of the unpacked body. Raises InvalidRequest for a body that is damaged, cut off, or followed by other
    bytes."""
    is_raw = coding == "deflate" and not _has_zlib_header(body)
    unpacker = zlib.decompressobj(_GZIP if coding == "gzip" else _RAW if is_raw else _ZLIB)
    start, packed = 0, b""
    while not unpacker.eof:
        if not packed:
            packed = body[start : start + PACKED_BYTES]
            start += len(packed)
        is_last = not packed  # zlib may still hold a rest that it has not put out
        try:
            if len(body) <= SMALL_BYTES:
                piece = unpacker.decompress(packed, PIECE_BYTES)
            else:
                piece = await threads.PARSERS.run(unpacker.decompress, packed, PIECE_BYTES)
        except zlib.error as exc:
            raise InvalidRequest(f"The request body cannot be unpacked as {coding}: {exc}.") from exc
        packed = unpacker.unconsumed_tail
        if is_last and not piece and not unpacker.eof:
            raise InvalidRequest(f"The request body ends in the middle of its {coding} data.")
        yield piece
    if unpacker.unused_data or packed or start < len(body):
        raise InvalidRequest(f"The request body goes on after the end of its {coding} data.")


def _has_zlib_header(body: bytes) -> bool:
    """RFC 1950, section 2.2: the method is 8, and the first two bytes are a multiple of 31."""
    return len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0
