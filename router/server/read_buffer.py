"""What one client has sent and is not processed yet: pieces as they were read, taken from the front in parts.

A client may pipeline megabytes of small requests. If all of them were one object, what is left of it would be copied
with each request. So the pieces stay apart, and `FramedConnection` takes only as many as one step can use.
"""

from __future__ import annotations

import math
from collections import deque

from router.server.admission import Admission


class ReadBuffer:
    """The bytes of one connection. They are counted in `Admission.buffered_bytes`, which all clients share.

    `size`: how many there are. `wanted_size`: how many there must be before it makes sense to process them."""

    __slots__ = ("_admission", "_pieces", "size", "wanted_size")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._pieces: deque[bytes] = deque()
        self.size = 0
        self.wanted_size: float = 0

    def __repr__(self) -> str:
        return f"<ReadBuffer {self.size} bytes, {self.wanted_size} wanted>"

    def append(self, data: bytes) -> None:
        self._pieces.append(data)
        self._count(len(data))

    def put_back(self, data: bytes, wanted_size: float) -> None:
        """`data` was taken before, and comes first again."""
        self._pieces.appendleft(data)
        self._count(len(data))
        self.wanted_size = wanted_size

    def take(self, size: float = math.inf) -> bytes:
        """The first whole pieces that have `size` bytes together; by default all."""
        pieces, taken = [], 0
        while self._pieces and taken < size:
            pieces.append(self._pieces.popleft())
            taken += len(pieces[-1])
        self._count(-taken)
        self.wanted_size = 0
        return b"".join(pieces)

    def clear(self) -> None:
        self._count(-self.size)
        self._pieces.clear()

    def starts_with_head(self) -> bool:
        """Whether the head of a request has come whole."""
        return b"\r\n\r\n" in b"".join(self._pieces)

    def _count(self, size: int) -> None:
        self.size += size
        self._admission.buffered_bytes += size
