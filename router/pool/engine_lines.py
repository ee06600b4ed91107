"""Lines of the models' processes on their way into the router's log, as `--log-engines` says.

The one idea: a process may write without end, and the log may be a disk. Each model has so many bytes, which come back
with time. If they are used up, its lines are left out, and the log says so, once at the beginning and with their number
at the end. The last lines are in the model's own log in any case (`logs`, which calls this).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from router.engine.log_lines import level_of
from router.units import limit_size

log = logging.getLogger("router.engine")

# The least level that passes, by the words of --log-engines.
LEVELS: Mapping[str, int] = {"warn": logging.WARNING, "all": logging.DEBUG}
BURST_BYTES = 64 << 10  # of one model, at once
BYTES_PER_SECOND = 8 << 10
LINE_BYTES = 80  # of the log, beside what the process wrote
# A flood that was cut off begins again when so much has come back: else each line would be one and a remark on it.
FRESH_BYTES = BURST_BYTES // 4


@dataclass(slots=True)
class _Allowance:
    left: float
    at: float
    left_out: int = 0


class EngineLines:
    """`least` is the least level of a line that goes to the log. `clock` counts seconds."""

    def __init__(self, least: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._least = least
        self._clock = clock
        self._allowances: dict[str, _Allowance] = {}

    def __repr__(self) -> str:
        return f"<EngineLines from {logging.getLevelName(self._least)}, {len(self._allowances)} models>"

    def __call__(self, model: str, lines: Sequence[str]) -> None:
        allowance = self._allowance(model)
        for index, line in enumerate(lines):
            if allowance.left_out and allowance.left < FRESH_BYTES:
                allowance.left_out += len(lines) - index
                return
            level = level_of(line)
            if level < self._least or not log.isEnabledFor(level):
                continue
            if allowance.left_out:
                self._tell(logging.WARNING, model, f"{allowance.left_out} lines of its process were left out")
                allowance.left_out = 0
            allowance.left -= len(line) + LINE_BYTES
            if allowance.left < 0:
                rate = f"more than {limit_size(BYTES_PER_SECOND)} a second"
                where = "the last ones are in its own log"
                self._tell(logging.WARNING, model, f"its process writes {rate}: lines are left out here, and {where}")
                allowance.left_out = 1
                continue
            self._tell(level, model, line)

    def forget(self, model: str) -> None:
        self._allowances.pop(model, None)

    def _allowance(self, model: str) -> _Allowance:
        now = self._clock()
        found = self._allowances.setdefault(model, _Allowance(BURST_BYTES, now))
        found.left = min(BURST_BYTES, max(0.0, found.left) + (now - found.at) * BYTES_PER_SECOND)
        found.at = now
        return found

    def _tell(self, level: int, model: str, text: str) -> None:
        log.log(level, "%s: %s", model, text, extra={"model": model, "request_id": ""})
