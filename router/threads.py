"""Threads for what blocks, by purpose: so that a disk that hangs keeps from its work only whoever needs that disk.

asyncio's own threads are shared by all, and the interpreter waits for them at its end. These are daemons: nothing waits
for a thread that hangs. Each purpose has a few. If all are busy and somebody has waited for a moment, there come more,
up to a bound: some of them may hang. Whoever has no answer within his patience gets an error, and the thread is left
behind; the same thing is not tried again while it hangs.
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

RELIEF = 0.25  # seconds that a job waits before there is one thread more
PATIENCE = 20.0  # seconds; a disk that sleeps needs ten


class Unanswered(Unavailable):
    """The disk, or whatever was asked, has not answered in time."""


class _Job:
    """`future` is the caller's, and only touched in its loop."""

    def __init__(self, work: Callable[[], Any], key: Hashable, loop: asyncio.AbstractEventLoop) -> None:
        self.work, self.key, self.loop = work, key, loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.has_begun = self.is_given_up = False

    def run(self) -> None:
        try:
            result, error = self.work(), None
        except BaseException as exc:
            result, error = None, exc
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self._tell, result, error)
        del result, error, self.work, self  # what a traceback holds, stays as long as it

    def _tell(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return  # nobody waits any more
        if error is None:
            self.future.set_result(result)
        elif isinstance(error, StopIteration):  # which a future does not take
            self.future.set_exception(RuntimeError(repr(error)))
        else:
            self.future.set_exception(error)


class Threads:
    """`few` threads, up to `most` while some of them hang, and at most `waiting` jobs in line.

    ::

        FILES = Threads("files")
        header = await FILES.run(gguf.read, path)
        header = await FILES.run(gguf.read, path, patience=20.0, what=f"the file {path}")  # may raise Unanswered
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
        """Whether somebody may still wait for it."""
        return bool(self._line or self._running)

    async def run(
        self,
        function: Callable[..., T],
        *args: Any,
        patience: float | None = None,
        what: str = "",
        **named: Any,
    ) -> T:
        """What the function returns or raises. With `patience`, in seconds and counted from now, it raises Unanswered
        after that, which says that `what` does not answer; and at once while an earlier try of it hangs. Raises
        Unavailable where too many wait. Who is cancelled while his job waits, takes it out of the line."""
        job = _Job(lambda: function(*args, **named), what if patience is not None else None, asyncio.get_running_loop())
        self._put(job)
        timers = [job.loop.call_later(RELIEF, self._relieve, job)]
        if patience is not None:
            timers.append(job.loop.call_later(patience, self._give_up, job, what, patience))
        try:
            return await job.future  # type: ignore[no-any-return]
        finally:
            for timer in timers:
                timer.cancel()
            with self._lock, contextlib.suppress(ValueError):
                self._line.remove(job)

    def _put(self, job: _Job) -> None:
        with self._lock:
            if job.key is not None and any(one.key == job.key and one.is_given_up for one in self._running):
                raise _unanswered(str(job.key), "still hangs since an earlier try")
            if len(self._line) >= self._waiting:
                raise Unavailable(f"Too much is waiting for {self.name} already. Try again later.", retry_after=5.0)
            self._line.append(job)
            if self._idle >= len(self._line):
                self._work.notify()
            elif self._count < self._few:
                self._add()

    def _add(self) -> None:
        """One thread more; the lock is held."""
        self._count += 1
        try:
            # A daemon: the end of the program does not wait for a disk.
            threading.Thread(target=self._serve, name=f"pool-{self.name}", daemon=True).start()
        except RuntimeError:  # the system has no more; those that are there do the work
            self._count -= 1
            if not self._count:
                self._line.pop()
                raise Unavailable("The system has no more threads. Try again later.", retry_after=5.0) from None

    def _relieve(self, job: _Job) -> None:
        """It has waited for long: whoever is before it may hang."""
        with self._lock:
            if job.has_begun or job.future.done():
                return
            if not self._idle and self._count < self._most:
                self._add()
        job.loop.call_later(RELIEF, self._relieve, job)

    def _give_up(self, job: _Job, what: str, patience: float) -> None:
        if not job.future.done():
            job.is_given_up = True
            reason = "has not answered" if job.has_begun else "could not even be asked, as others hang too,"
            job.future.set_exception(_unanswered(what, f"{reason} within {patience:g} s"))

    def _serve(self) -> None:
        while job := self._next():
            job.run()
            with self._lock:
                self._running.discard(job)
            del job

    def _next(self) -> _Job | None:
        """None for a thread that is not needed any more."""
        with self._lock:
            while not self._line:
                if self._count > self._few:
                    self._count -= 1
                    return None
                self._idle += 1
                self._work.wait()
                self._idle -= 1
            job = self._line.popleft()
            job.has_begun = True
            self._running.add(job)
            return job


def _unanswered(what: str, how: str) -> RouterError:
    return Unanswered(
        f"{what} {how}: its disk, or the network it lies on, hangs. Look after that, then try again.", retry_after=10.0
    )


# By purpose
FILES = Threads("files")  # headers, templates, what is told of files
ESTIMATES = Threads("estimates")  # headers too, and the engine's measure; loads wait for these
CATALOG = Threads("catalog", few=1, most=4)  # presets and folders, read again
CACHE = Threads("cache")  # the hub's, which may be large and far
RECORDS = Threads("records", few=1, most=4)  # what we write ourselves
MACHINE = Threads("machine", few=1, most=4)  # what the system tells of processes
PARSERS = Threads("parsers", few=1, most=1)  # large bodies of requests
ALL = (FILES, ESTIMATES, CATALOG, CACHE, RECORDS, MACHINE, PARSERS)
