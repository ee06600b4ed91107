"""Processes of a router, looked at again and again while a test goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import psutil

from tests.waiting import until


def children(pid: int) -> list[psutil.Process]:
    """The child processes that live.

    Linux lists them by thread. That costs a tenth of psutil's way, which reads every process of the machine, but a
    child may be left out in the moment in which one of its siblings ends: this is for samples.
    """
    tasks = Path(f"/proc/{pid}/task")
    with contextlib.suppress(OSError, psutil.Error):
        if not (tasks / str(pid) / "children").exists():
            return psutil.Process(pid).children()
        found = []
        for path in tasks.glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(word) for word in path.read_text().split()]
        return [process for number in found for process in _process(number)]
    return []


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing if it has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def transfers(pid: int) -> list[psutil.Process]:
    """The processes that download for this one."""
    return [child for child in psutil.Process(pid).children() if "router.hub.transfer" in command_of(child)]


def _process(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [psutil.Process(pid)]
    return []


class Sampler:
    """Calls `look` in a thread of its own until the block ends, and once more then.

    ::

        with Sampler(lambda: seen.update(names(router))):
            ask(router, "a", "b")
        assert seen == {"a", "b"}

    What `look` raises, the end of the block raises.
    """

    def __init__(self, look: Callable[[], object], every: float = 0.005) -> None:
        self.count = 0
        self._look, self._every = look, every
        self._end = threading.Event()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Sampler:
        self._done = self._thread.submit(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.shutdown()
        if error is None:
            self._done.result()

    def settle(self) -> None:
        """Return when a look has begun and ended since now."""
        before = self.count
        until(lambda: self.count >= before + 2 or self._done.done())  # the next one may have begun already

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._end.wait(self._every)
            self._look()
            self.count += 1


def suspend(pid: int) -> None:
    """Stop the process with SIGSTOP, and wait until all its threads have stopped: it hangs."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: all(state in "TXZ" for state in _thread_states(pid)))


def _thread_states(pid: int) -> list[str]:
    """The letters of /proc/PID/task/TID/stat."""
    return [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
