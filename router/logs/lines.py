"""Lines on their way to a descriptor.

The one idea: the router never waits for a reader. Lines go into a bounded queue, and a thread writes them. If the
reader is too slow or the disk is full, lines are lost; they are counted, the log says how many, and the router goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from router.logs.formats import TextFormat

log = logging.getLogger("router.logs")

MAX_QUEUED_BYTES = 4 << 20
MAX_WRITE_BYTES = 64 << 10  # that are written at once
# How long the end of the program waits for lines that are not written yet: a pipe without a reader takes nothing.
FLUSH_TIMEOUT_S = 1.0
RETRY_S = 1.0  # between two looks whether a full pipe takes bytes again


class Lines:
    """Lines on their way to a descriptor, or to a file that can be reopened. `put` never waits.

    `note` makes the line that tells of lost ones; by default it is text."""

    def __init__(self, open_: Callable[[], int], name: str) -> None:
        """`open_` returns a descriptor. If it raises OSError, so does this; later, in `reopen`, that is a warning."""
        self.note: Callable[[str], str] = TextFormat().note
        self._open = open_
        self._name = name
        self._descriptor = open_()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._loss_reason = ""
        self._is_writing = self._must_reopen = False
        self._changed = threading.Condition()  # on an RLock: the garbage collector may log in the middle of `put`
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Lines to {self._name}: {len(self._waiting)} waiting, {self._lost} lost>"

    def put(self, line: str) -> None:
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._changed:
            if self._size + len(data) > MAX_QUEUED_BYTES:
                self._lose(1, "they were not read in time")
                return
            self._waiting.append(data)
            self._size += len(data)
            if self._thread is None:
                self._start_thread()
            self._changed.notify_all()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"log-{self._name}", daemon=True)
        with contextlib.suppress(RuntimeError):  # there are too many threads: the next line tries again
            thread.start()
            self._thread = thread

    def reopen(self) -> None:
        """Open the file again before the next line is written."""
        with self._changed:
            self._must_reopen = True
            self._changed.notify_all()

    def flush(self, timeout: float = FLUSH_TIMEOUT_S) -> None:
        """Wait until all lines are written, at most `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._changed:
            while (self._waiting or self._is_writing) and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)

    def _lose(self, count: int, why: str) -> None:
        self._lost += count
        self._loss_reason = why

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                while not (self._waiting or self._must_reopen):
                    self._changed.wait()
                self._is_writing = True
                must_reopen, self._must_reopen = self._must_reopen, False
                data, count = self._take()
            if must_reopen:
                self._reopen()
            try:
                _write_all(self._descriptor, data)
            except OSError as exc:
                with self._changed:
                    self._lose(count, exc.strerror or type(exc).__name__)

    def _take(self) -> tuple[bytes, int]:
        """The next lines, and their number. If lines were lost, the first line says so, and they are counted again."""
        lines: list[bytes] = []
        room = MAX_WRITE_BYTES
        while self._waiting and (not lines or len(self._waiting[0]) <= room):
            lines.append(self._waiting.popleft())
            room -= len(lines[-1])
            self._size -= len(lines[-1])
        count = len(lines)
        if self._lost and lines:
            lines.insert(0, self.note(f"{self._lost} lines were lost: {self._loss_reason}").encode() + b"\n")
            count += self._lost  # if these lines are lost too, all are reported with the next ones
            self._lost = 0
        return b"".join(lines), count

    def _reopen(self) -> None:
        try:
            descriptor = self._open()
        except OSError as exc:
            log.warning("%s cannot be reopened (%s): lines still go to the file that is open", self._name, exc.strerror)
        else:
            if descriptor != self._descriptor:
                before, self._descriptor = self._descriptor, descriptor
                with contextlib.suppress(OSError):
                    os.close(before)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            _wait(descriptor)


def _wait(descriptor: int) -> None:
    """Wait until a full pipe takes bytes. Not with `select`, which does not take large descriptors."""
    if not hasattr(select, "poll"):
        time.sleep(RETRY_S / 20)
        return
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)
    ready.poll(RETRY_S * 1000)
