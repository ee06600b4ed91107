"""PURE: one file of a page, packed with gzip, as it is kept and sent.

Every file is packed: nearly all browsers take it so, and it is how engines hold it. For the rare client that does not,
`unpacked` gives it in pieces, so that no client costs more than a piece of memory. Made by `source` and `shelf`.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from router.page import names

MAX_PACKED_BYTES = 16 << 20  # of one file; the largest has 2.6 MB today
MAX_UNPACKED_BYTES = 64 << 20
MAX_PAGE_BYTES = 48 << 20  # of all files together, packed
MAX_FILES = 400
PIECE_BYTES = 1 << 16

# Headers of the engine that a page needs to work: they let it use threads of WebAssembly. Nothing else is taken over.
KEPT_HEADERS = ("cross-origin-embedder-policy", "cross-origin-opener-policy")
_POLICY = re.compile(r"[a-z-]{1,40}")


class BadFile(ValueError):
    """What is said to be a file of a page is none."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """`packed` is the content as gzip, `digest` the SHA-256 of that, in hex. `headers` are of KEPT_HEADERS."""

    name: str
    packed: bytes = field(repr=False)
    digest: str
    headers: Mapping[str, str]

    @classmethod
    def make(cls, name: str, packed: bytes, headers: Mapping[str, str]) -> PageFile:
        """Raises BadFile for a wrong name, for what is no gzip, and for too much of it."""
        if not names.is_valid(name):
            raise BadFile(f"{name[:80]!r} is no name of a file")
        if len(packed) > MAX_PACKED_BYTES:
            raise BadFile(f"{name} is too large")
        kept = {key: value for key, value in headers.items() if key in KEPT_HEADERS and _POLICY.fullmatch(value)}
        made = cls(name, packed, hashlib.sha256(packed).hexdigest(), kept)
        size = 0
        for piece in made.unpacked():
            size += len(piece)
            if size > MAX_UNPACKED_BYTES:
                raise BadFile(f"{name} unpacks to too much")
        return made

    @property
    def type(self) -> str:
        return names.TYPES[names.ending_of(self.name)]

    def unpacked(self) -> Iterator[bytes]:
        """The content, in pieces of at most PIECE_BYTES. Raises BadFile if it is no gzip."""
        unpacker, left = zlib.decompressobj(wbits=31), self.packed
        try:
            while not unpacker.eof:
                piece = unpacker.decompress(left, PIECE_BYTES)
                left = unpacker.unconsumed_tail
                if not piece and not left and not unpacker.eof:
                    raise BadFile(f"{self.name} ends too early")
                yield piece
        except zlib.error as error:
            raise BadFile(f"{self.name} is no gzip: {error}") from error


def pack(content: bytes) -> bytes:
    """As gzip, and always the same for the same content."""
    packer = zlib.compressobj(6, wbits=31)
    return packer.compress(content) + packer.flush()
