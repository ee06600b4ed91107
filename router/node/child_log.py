"""The last lines that a child wrote, within bounds.

`process` keeps one for each child. It says why a child crashed, and the model's status shows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

MAX_LINES = 2000
MAX_LOG_BYTES = 256 << 10
MAX_LINE_BYTES = 4096


class ChildLog:
    """Lines of bytes go in, lines of text come out, the oldest first."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._size = 0

    def __repr__(self) -> str:
        return f"<ChildLog {len(self._lines)} lines, {self._size} bytes>"

    def add(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            line = shorten(line)
        self._lines.append(line)
        self._size += len(line)
        while self._size > MAX_LOG_BYTES or len(self._lines) > MAX_LINES:
            self._size -= len(self._lines.popleft())

    def __iter__(self) -> Iterator[str]:
        return (line.decode(errors="replace") for line in self._lines)


def shorten(line: bytes, already_cut: int = 0) -> bytes:
    """The start of a line, and how many bytes are missing. `already_cut` bytes of it were dropped before."""
    if len(line) <= MAX_LINE_BYTES and not already_cut:
        return line
    kept = line[: MAX_LINE_BYTES - 64]
    return kept + b" ... (%d more bytes)" % (len(line) - len(kept) + already_cut)
