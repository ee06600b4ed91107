"""What the child program writes to stdout: one line of JSON for each message."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

PROGRESS_INTERVAL_S = 0.2

_output = threading.Lock()


def report(**message: Any) -> None:
    with _output:
        print(json.dumps(message), flush=True)


class ProgressReports:
    """Reports how much of a file is here, a few times a second."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url, size
        self._reported_at = 0.0

    def __repr__(self) -> str:
        return f"<ProgressReports of a file of {self._size} bytes>"

    def update(self, done: int, *, is_last: bool = False) -> None:
        """`done` bytes are here. The last report is always made, the others not too often."""
        now = time.monotonic()
        if is_last or (now - self._reported_at >= PROGRESS_INTERVAL_S and (done < self._size or not self._size)):
            self._reported_at = now
            report(url=self._url, done=done)
