"""Reads what a child writes, line by line.

A pipe that is not read blocks the child when it is full, so everything is read at once. `process` has one PipeReader
for stdout and one for stderr.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import IO

from router.node.child_log import shorten

PIPE_BYTES = 1 << 16  # what Linux holds in a pipe
# A line costs some microseconds, however short it is. After so many at once the next ones are read in smaller parts, so
# that others have their turns in between.
MANY_LINES = 2000
SMALL_BYTES = 1 << 11
MAX_PENDING_BYTES = 1 << 16  # kept of a line that has not ended; a state has a few thousand


class PipeReader:
    """Cuts one stream into lines. `on_lines` is called for all that comes, with an empty list if no line has ended.

    It reads the pipe itself because a descriptor must be closed only once. uvloop's transport (0.23) closes it, and
    then the file, which closes the same number again: by then it may be that of a file of another thread.
    """

    def __init__(
        self,
        pipe: IO[bytes],
        on_lines: Callable[[PipeReader, list[bytes]], None],
        hide: Callable[[bytes], bytes] = lambda line: line,
    ) -> None:
        """`hide` is called with a line that is too long, before it is cut: half a secret would not be known for one."""
        self._pipe = pipe
        self._on_lines = on_lines
        self._hide = hide
        self._pending = b""  # the line that has not ended
        self._cut_off = 0  # bytes of that line that were dropped
        self._read_bytes = PIPE_BYTES
        self._loop = asyncio.get_running_loop()
        self.closed = self._loop.create_future()
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(pipe, self.read)

    def __repr__(self) -> str:
        return f"<PipeReader {'closed' if self.closed.done() else 'open'}>"

    def close(self) -> None:
        if not self.closed.done():
            self._loop.remove_reader(self._pipe)
            self._pipe.close()
            self.closed.set_result(None)
            self._on_lines(self, [self._take_line()] if self._pending else [])

    def read_all(self) -> None:
        """Read all that the pipe holds now."""
        self._read_bytes = PIPE_BYTES
        self.read()

    def read(self) -> None:
        if self.closed.done():
            return
        data = self._pipe.read(self._read_bytes)
        if data:
            self._cut(data)
        elif data is not None:  # None: there was nothing to read after all
            self.close()

    def _cut(self, data: bytes) -> None:
        first, *others = data.split(b"\n")
        is_dense = len(others) * PIPE_BYTES > MANY_LINES * len(data)
        self._read_bytes = SMALL_BYTES if is_dense and len(data) >= SMALL_BYTES else PIPE_BYTES
        self._add(first)
        lines: list[bytes] = []
        if others:
            lines = [self._take_line(), *others[:-1]]
            self._add(others[-1])
        self._on_lines(self, lines)

    def _add(self, part: bytes) -> None:
        room = MAX_PENDING_BYTES - len(self._pending)
        self._pending += part[:room]
        self._cut_off += max(0, len(part) - room)

    def _take_line(self) -> bytes:
        line = shorten(self._hide(self._pending), self._cut_off) if self._cut_off else self._pending
        self._pending, self._cut_off = b"", 0
        return line
