"""When paths last changed, to find out with a few looks whether anything below them has.

A folder's time changes when something in it is added, renamed or removed. Used for the cache (`cache`) and for folders
of models (`models.folder`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

# Two changes of a folder within one tick of the kernel's clock have the same time.
CLOCK_TICK_NS = 50_000_000
# Instead of the time of a change:
NOT_THERE = -1
TOO_RECENT = -2  # another change could have the same time, so the path counts as changed


def content_changed(path: str) -> int:
    """When the content of a file, or the list of a folder, last changed, in ns; NOT_THERE for a path that is not."""
    try:
        return os.stat(path).st_mtime_ns
    except (OSError, ValueError):
        return NOT_THERE


def anything_changed(path: str) -> int:
    """As `content_changed`, or when rights, owner or name changed, if that is later."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return NOT_THERE
    return max(status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class ChangeTimes:
    """When paths last changed, in ns; or NOT_THERE, or TOO_RECENT."""

    times: Mapping[str, int]
    time_of: Callable[[str], int] = content_changed

    @classmethod
    def of(cls, paths: Iterable[str], time_of: Callable[[str], int] = content_changed) -> ChangeTimes:
        now = time.time_ns()
        times = {path: time_of(path) for path in paths}
        recent = {path: TOO_RECENT for path, when in times.items() if now - when <= CLOCK_TICK_NS}
        return cls({**times, **recent}, time_of)

    def are_current(self) -> bool:
        return all(self.time_of(path) == when for path, when in self.times.items())
