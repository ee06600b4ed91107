"""What this process itself uses of the machine: processor, memory, open files. Read by `metrics` at each scrape."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import psutil

DESCRIPTORS = "/proc/self/fd"


@dataclass(frozen=True, slots=True)
class Usage:
    """`cpu` are seconds, `resident` and `virtual` bytes, `started` seconds since 1970. `open_files` and `max_files` are
    None where the system counts no files."""

    cpu: float
    resident: int
    virtual: int
    started: float
    open_files: int | None = None
    max_files: int | None = None


class OwnProcess:
    def __init__(self) -> None:
        self._process = psutil.Process()
        self._started = self._process.create_time()

    def __repr__(self) -> str:
        return f"<OwnProcess {self._process.pid}>"

    def usage(self) -> Usage:
        """It does not block."""
        times, memory = os.times(), self._process.memory_info()
        return Usage(times.user + times.system, memory.rss, memory.vms, self._started, *self._files())

    def _files(self) -> tuple[int | None, int | None]:
        if sys.platform == "win32":
            return None, None
        import resource

        return self._open_files(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def _open_files(self) -> int:
        """Since Linux 6.2 the size of the folder is their number. Before, and elsewhere, they are counted."""
        if sys.platform == "linux" and (size := os.stat(DESCRIPTORS).st_size):
            return size
        return self._process.num_fds()
