"""Threads for work that blocks, by purpose, so that a disk that hangs stops only the work that needs that disk.

asyncio's own threads are shared by all work, and the interpreter waits for them when it ends. These threads are
daemons: nothing waits for a thread that hangs. Each purpose has a few threads. If all are busy and a job has waited for
RELIEF_S, another thread starts, up to a bound: the busy ones may hang. A job that has a timeout fails after it, and its
thread is left behind. The same work is not tried again while it hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from router.errors import RouterError, Unavailable

T = TypeVar("T")

RELIEF_S = 0.25  # a job that has waited so long gets one thread more
DISK_TIMEOUT_S = 20.0  # a disk that sleeps needs ten


class Unanswered(Unavailable):
    """The disk has not answered in time."""


class _Job:
    """A function to run in a thread. The caller waits for `future`, which is only touched in the caller's loop."""

    def __init__(self, work: Callable[[], Any], key: Hashable, loop: asyncio.AbstractEventLoop) -> None:
        self.work, self.key, self.loop = work, key, loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.has_started = self.has_timed_out = False

    def run(self) -> None:
        try:
            result, error = self.work(), None
        except BaseException as exc:
            result, error = None, exc
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self._finish, result, error)
        del result, error, self.work, self  # a traceback would keep alive all that its frames hold

    def _finish(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return  # the caller has left, or has timed out
        if error is None:
            self.future.set_result(result)
        elif isinstance(error, StopIteration):  # a future does not take it
            self.future.set_exception(RuntimeError(repr(error)))
        else:
            self.future.set_exception(error)


class Threads:
    """The threads of one purpose: `few` of them, up to `most` while some hang, and at most `waiting` jobs in line.

    ::

        FILES = Threads("files")
        header = await FILES.run(gguf.read, path)
        header = await FILES.run(gguf.read, path, timeout=20.0, what=f"the file {path}")  # may raise Unanswered
    """

    def __init__(self, name: str, *, few: int = 4, most: int = 32, waiting: int = 10_000) -> None:
        self.name = name
        self._few, self._most, self._waiting = few, most, waiting
        self._line: deque[_Job] = deque()
        self._running: set[_Job] = set()
        self._idle = self._count = 0
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)

    def __repr__(self) -> str:
        return f"<Threads {self.name}: {self._count} threads, {len(self._running)} at work, {len(self._line)} waiting>"

    @property
    def is_busy(self) -> bool:
        """Whether a job waits or runs."""
        return bool(self._line or self._running)

    async def run(
        self,
        function: Callable[..., T],
        *args: Any,
        timeout: float | None = None,
        what: str = "",
        **named: Any,
    ) -> T:
        """Run a function in a thread: returns what it returns, and raises what it raises.

        After `timeout` seconds, counted from now, it raises Unanswered, which says that `what` does not answer. While
        an earlier try of the same `what` hangs, it raises Unanswered at once. Raises Unavailable if too many jobs wait.
        A caller that is cancelled takes its waiting job out of the line.
        """
        job = _Job(lambda: function(*args, **named), what if timeout is not None else None, asyncio.get_running_loop())
        self._put(job)
        timers = [job.loop.call_later(RELIEF_S, self._relieve, job)]
        if timeout is not None:
            timers.append(job.loop.call_later(timeout, self._time_out, job, what, timeout))
        try:
            return await job.future  # type: ignore[no-any-return]
        finally:
            for timer in timers:
                timer.cancel()
            with self._lock, contextlib.suppress(ValueError):
                self._line.remove(job)

    def _put(self, job: _Job) -> None:
        with self._lock:
            if job.key is not None and any(one.key == job.key and one.has_timed_out for one in self._running):
                raise _unanswered(str(job.key), "still hangs since an earlier try")
            if len(self._line) >= self._waiting:
                raise Unavailable(f"Too much is waiting for {self.name} already. Try again later.", retry_after=5.0)
            self._line.append(job)
            if self._idle >= len(self._line):
                self._work.notify()
            elif self._count < self._few:
                self._add_thread()

    def _add_thread(self) -> None:
        """Start one thread more; the lock is held."""
        self._count += 1
        try:
            # A daemon: the end of the program does not wait for a disk.
            threading.Thread(target=self._serve, name=f"pool-{self.name}", daemon=True).start()
        except RuntimeError:  # the system has no more: the threads that exist do the work
            self._count -= 1
            if not self._count:
                self._line.pop()
                raise Unavailable("The system has no more threads. Try again later.", retry_after=5.0) from None

    def _relieve(self, job: _Job) -> None:
        """Start a thread for a job that has waited for RELIEF_S: all jobs before it may hang."""
        with self._lock:
            if job.has_started or job.future.done():
                return
            if not self._idle and self._count < self._most:
                self._add_thread()
        job.loop.call_later(RELIEF_S, self._relieve, job)

    def _time_out(self, job: _Job, what: str, timeout: float) -> None:
        if not job.future.done():
            job.has_timed_out = True
            reason = "has not answered" if job.has_started else "could not be read, because other reads hang too,"
            job.future.set_exception(_unanswered(what, f"{reason} within {timeout:g} s"))

    def _serve(self) -> None:
        while job := self._next():
            job.run()
            with self._lock:
                self._running.discard(job)
            del job

    def _next(self) -> _Job | None:
        """The next job; None if the thread is not needed any more."""
        with self._lock:
            while not self._line:
                if self._count > self._few:
                    self._count -= 1
                    return None
                self._idle += 1
                self._work.wait()
                self._idle -= 1
            job = self._line.popleft()
            job.has_started = True
            self._running.add(job)
            return job


def _unanswered(what: str, how: str) -> RouterError:
    return Unanswered(f"{what} {how}: its disk or network share hangs. Mend that, then try again.", retry_after=10.0)


# By purpose
FILES = Threads("files")  # headers and templates, for descriptions of models
ESTIMATES = Threads("estimates")  # headers, and the engine's own estimate; loads wait for these
CATALOG = Threads("catalog", few=1, most=4)  # presets and folders, read again
CACHE = Threads("cache")  # the cache of the hub, which may be large and on a network share
RECORDS = Threads("records", few=1, most=4)  # files that the router writes itself
MACHINE = Threads("machine", few=1, most=4)  # facts of processes and devices
PARSERS = Threads("parsers", few=1, most=1)  # large bodies of requests
ALL = (FILES, ESTIMATES, CATALOG, CACHE, RECORDS, MACHINE, PARSERS)
