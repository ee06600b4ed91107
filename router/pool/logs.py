"""What the models' processes write, kept past their ends for people who want to read it.

The one idea: a model has one log, in which its processes follow each other, and readers have a place in it. A reader
that is slow keeps nothing alive and holds nobody up: what it has missed is gone, and it is told how much that was.

`processes` writes, `api.engine_log` reads. Lines are as `engine.log_lines` shows them: fit for a terminal.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Sequence

from router.engine.log_lines import shown
from router.logs.formats import stamp
from router.pool.engine_lines import EngineLines

MAX_LINES = 2_000  # of each model
MAX_BYTES = 256 << 10
# Of all models together. A catalog has thousands of models; those that wrote least recently lose their lines first.
MAX_BYTES_IN_ALL = 32 << 20
LINE_OVERHEAD = 64  # bytes that Python needs for a line beside its text; one of them for its end
MAX_READ_BYTES = 64 << 10  # that a reader gets at once
OURS = "[llama-router] "  # begins the lines that no process has written


class ModelLog:
    """The lines of one model, counted from 0 over all that were ever written; `first` is the oldest that is kept.

    `has_ended`: there will be no more lines.
    """

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self.first = 0
        self.size = 0
        self.has_ended = False
        self._waiting: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<ModelLog lines {self.first} to {self.end}, {self.size} bytes, {len(self._waiting)} readers wait>"

    @property
    def end(self) -> int:
        """The number of the next line."""
        return self.first + len(self._lines)

    def add(self, lines: Sequence[str]) -> None:
        new = "\n".join(lines).encode(errors="replace").split(b"\n")  # quicker than each by itself
        self._lines.extend(new)
        self.size += sum(map(len, new)) + LINE_OVERHEAD * len(new)
        self._drop(len(self._lines) - MAX_LINES)
        while self.size - (LINE_OVERHEAD - 1) * len(self._lines) > MAX_BYTES:
            self._drop(1)
        if self._waiting:
            self._wake()

    def clear(self) -> None:
        self._drop(len(self._lines))

    def close(self) -> None:
        self.has_ended = True
        self._wake()

    def read(self, start: int) -> tuple[bytes, int]:
        """Lines from this number on, as many as a reader gets at once, and the number of the line after them."""
        found: list[bytes] = []
        room = MAX_READ_BYTES
        for line in itertools.islice(self._lines, max(0, start - self.first), None):
            room -= len(line) + 1
            if room < 0 and found:
                break
            found.append(line)
        return b"\n".join([*found, b""]), max(start, self.first) + len(found)

    async def wait(self, end: int) -> None:
        """Wait until there is a line of this number, or the log has ended."""
        while self.end <= end and not self.has_ended:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)

    def _drop(self, count: int) -> None:
        """The oldest so many."""
        if count > 0:
            pop = self._lines.popleft
            self.size -= sum([len(pop()) for _ in range(count)]) + LINE_OVERHEAD * count
            self.first += count

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)


class LogReader:
    """A place in a log, `lines` before its end.

    ::

        reader = LogReader(logs.of("tiny"), 100)
        while (data := reader.read()) or await reader.has_more():
            send(data)
    """

    def __init__(self, log: ModelLog, lines: int) -> None:
        self._log = log
        self._next = max(log.first, log.end - lines)

    def __repr__(self) -> str:
        return f"<LogReader at {self._next} of {self._log!r}>"

    def read(self) -> bytes:
        """The next lines; empty if there are none. Lines that were dropped before they were read are counted."""
        lost = self._log.first - self._next
        data, self._next = self._log.read(self._next)
        return f"{OURS}{lost} lines were not read in time and are lost\n".encode() + data if lost > 0 else data

    def read_all(self) -> bytes:
        """All the lines that there are."""
        return b"".join(iter(self.read, b""))

    async def has_more(self) -> bool:
        """Wait for more lines. False if there will be none."""
        await self._log.wait(self._next)
        return self._log.end > self._next


class EngineLogs:
    """The logs of all models. `lines` takes them to the router's own log; None: they do not go there."""

    def __init__(self, lines: EngineLines | None = None) -> None:
        self._lines = lines
        self._logs: dict[str, ModelLog] = {}  # the one that was written to last is the last
        self._size = 0
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<EngineLogs of {len(self._logs)} models, {self._size} bytes>"

    @property
    def size(self) -> int:
        """The bytes of all logs together."""
        return self._size

    def names(self) -> set[str]:
        """The models that have a log."""
        return set(self._logs)

    def of(self, model: str) -> ModelLog:
        """The log of this model, which may be empty."""
        log = self._logs.get(model)
        if log is None:
            log = self._logs[model] = ModelLog()
            log.has_ended = self._ended.is_set()
        return log

    def add(self, model: str, lines: Sequence[bytes]) -> None:
        """Lines that the model's process has written."""
        text = shown(lines)
        self._add(model, text)
        if self._lines is not None:
            self._lines(model, text)

    def note(self, model: str, text: str) -> None:
        """A line of the router's own, with the time: what becomes of the process."""
        self._add(model, [f"{OURS}{stamp(time.time())} {text}"])

    def forget(self, model: str) -> None:
        """The model has left the catalog."""
        if log := self._logs.pop(model, None):
            self._size -= log.size
            log.close()
        if self._lines is not None:
            self._lines.forget(model)

    def end(self) -> None:
        """Let no reader wait any longer; what is still written is kept."""
        self._ended.set()
        for log in self._logs.values():
            log.close()

    async def until_end(self) -> None:
        """Wait until no reader waits any longer."""
        await self._ended.wait()

    def _add(self, model: str, lines: Sequence[str]) -> None:
        log = self.of(model)
        before = log.size
        log.add(lines)
        self._size += log.size - before
        self._logs[model] = self._logs.pop(model)
        while self._size > MAX_BYTES_IN_ALL:
            self._make_room(model)

    def _make_room(self, writer: str) -> None:
        """Clear the log that was written to longest ago, of those with lines."""
        oldest = next(name for name, log in self._logs.items() if log.size or name == writer)
        self._size -= self._logs[oldest].size
        self._logs[oldest].clear()
