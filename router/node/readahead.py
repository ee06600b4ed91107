"""Brings the files of a start that has to wait into the page cache. Linux only.

The files are read like any file, and what was read is thrown away. Ways that copy nothing are not enough:

- Of one POSIX_FADV_WILLNEED or MADV_WILLNEED the kernel takes some MiB at most (`force_page_cache_ra`, mm/readahead.c).
- `sendfile` to the null device brings in all for a fraction of the CPU time, but it touches nothing. In a virtual
  machine whose host lends it memory page by page, a model that was brought in so took as long to start as one that was
  not.

The pool calls it through `local`, each time another model is the next to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread, get_native_id

import psutil

from router import files as regular
from router.units import size

log = logging.getLogger("router.readahead")

DELAY_S = 0.02  # a start that waits no longer is not worth a thread
STEP_BYTES = 16 << 20  # read between two checks whether to go on; after each step the thread waits for a busy loop
RESERVE_BYTES = 1 << 30  # left free for all else that may come


class ReadAhead:
    """Reads files in a thread of its own, one list of files at a time.

    `spare` returns the bytes of RAM that files may take without pushing out what processes have mapped. It is called in
    the thread.

    No more is read than `spare` less a reserve, from the first byte on, as the engine reads. If more were read than
    there is room for, the kernel would drop the start of the file before the engine wants it, and with it pages that
    other processes use. Pages that were cached before count as read. Pages that no process has mapped may be dropped,
    as they will be when the child reads the files.
    """

    def __init__(self, spare: Callable[[], int]) -> None:
        self._spare = spare
        self._timer: asyncio.TimerHandle | None = None
        self._thread: Thread | None = None
        self._is_cancelled = Event()  # of the thread that was started last

    def __repr__(self) -> str:
        is_reading = self._thread is not None and self._thread.is_alive()
        return f"<ReadAhead {'reading' if is_reading else 'idle'}>"

    def prefetch(self, files: Sequence[Path]) -> None:
        """Read these files soon, in this order. Files of the call before are read no further. Returns at once."""
        self.stop()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if files and sys.platform == "linux":
            self._start_later(files)

    def stop(self) -> None:
        self._is_cancelled.set()

    def _start_later(self, files: Sequence[Path]) -> None:
        self._timer = asyncio.get_running_loop().call_later(DELAY_S, self._start, files)

    def _start(self, files: Sequence[Path]) -> None:
        if self._thread and self._thread.is_alive():  # in its last step; so a disk that hangs keeps one thread only
            self._start_later(files)
            return
        self._is_cancelled = Event()
        # A daemon: the end of the program does not wait for a disk.
        self._thread = Thread(
            target=_read, args=(files, self._spare, self._is_cancelled), name="read-ahead", daemon=True
        )
        self._thread.start()


def _read(files: Sequence[Path], spare: Callable[[], int], is_cancelled: Event) -> None:
    began, done = time.monotonic(), 0
    # The lowest priority at the disk, for this thread alone.
    with contextlib.suppress(psutil.Error, OSError):
        psutil.Process(get_native_id()).ionice(psutil.IOPRIO_CLASS_IDLE)
    try:
        # A mapping goes back to the system when it is closed; the heap of a thread that ends does not.
        with mmap.mmap(-1, STEP_BYTES) as buffer:
            for file in files:
                with regular.open_regular(file) as source:
                    while not is_cancelled.is_set() and done + STEP_BYTES <= spare() - RESERVE_BYTES:
                        if not (count := source.readinto(buffer)):
                            break
                        done += count
    except OSError as error:  # the child will report it
        log.debug("not read ahead: %s", error)
    if done:
        took = time.monotonic() - began
        log.info("read %s of %s ahead in %.2f s", size(done), ", ".join(file.name for file in files), took)
