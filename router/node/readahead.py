"""Files that a child will read when it starts, brought into the page cache while the start has to wait. Linux.

They are read like any file, and what was read is thrown away: what copies nothing is not enough. Of one
POSIX_FADV_WILLNEED or MADV_WILLNEED the kernel takes some MiB at most (`force_page_cache_ra`, mm/readahead.c).
`sendfile` to the null device brings in all for a fraction of the CPU time, but touches nothing: in a virtual machine
whose host lends it memory page by page, a model that was brought in so took as long to start as one that was not.
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

DELAY = 0.02  # seconds; a start that waits no longer is not worth a thread
STEP = 16 << 20  # bytes between two looks at whether to go on; each of these has to wait for a busy loop
RESERVE = 1 << 30  # bytes that are left to whatever else comes


class ReadAhead:
    """`spare` tells the bytes of RAM that files may take without pushing out what processes have mapped; it is called
    in a thread.

    That, less a reserve, is as far as anything is read, and from the begin on, as the engine does: were more read than
    there is room for, its begin would be gone again when it is wanted, and pages that others use with it. Pages that
    were cached before count as read. What nobody has mapped may have to go, as it will when the child reads.
    """

    def __init__(self, spare: Callable[[], int]) -> None:
        self._spare = spare
        self._timer: asyncio.TimerHandle | None = None
        self._thread: Thread | None = None
        self._given_up = Event()

    def expect(self, files: Sequence[Path]) -> None:
        """Read these soon, in this order, and those of the call before no further. Returns at once."""
        self.stop()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if files and sys.platform == "linux":
            self._wait(files)

    def stop(self) -> None:
        self._given_up.set()

    def _wait(self, files: Sequence[Path]) -> None:
        self._timer = asyncio.get_running_loop().call_later(DELAY, self._begin, files)

    def _begin(self, files: Sequence[Path]) -> None:
        if self._thread and self._thread.is_alive():  # on its last step; one disk that hangs keeps one thread
            self._wait(files)
            return
        self._given_up = Event()
        # A daemon: the end of the program does not wait for a disk.
        self._thread = Thread(target=_read, args=(files, self._spare, self._given_up), name="read-ahead", daemon=True)
        self._thread.start()


def _read(files: Sequence[Path], spare: Callable[[], int], given_up: Event) -> None:
    began, done = time.monotonic(), 0
    with contextlib.suppress(psutil.Error, OSError):  # the disk is somebody else's first; of this thread alone
        psutil.Process(get_native_id()).ionice(psutil.IOPRIO_CLASS_IDLE)
    try:
        with mmap.mmap(-1, STEP) as step:  # which goes back to the system, as the heap of a thread that ends does not
            for file in files:
                with regular.opened(file) as source:
                    while not given_up.is_set() and done + STEP <= spare() - RESERVE:
                        if not (count := source.readinto(step)):
                            break
                        done += count
    except OSError as error:  # the child will tell
        log.debug("not read ahead: %s", error)
    if done:
        took = time.monotonic() - began
        log.info("read %s of %s ahead in %.2f s", size(done), ", ".join(file.name for file in files), took)
