"""The GPUs of a machine, and questions to their drivers that cannot block the router.

A driver may lose a GPU, be reset or reloaded, and hang. Three things follow. Each GPU is asked in a thread of its own,
so that one that hangs does not hide the others. A GPU that cannot be read has a reason. And GPUs are found again by
their driver when they cannot be read, so that one that is back is used without a restart.

`nvidia` and `amd` are drivers; `devices` makes one Gpus of them and asks it for memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from threading import Thread
from typing import NamedTuple, Protocol

from router.scheduling.resources import UNKNOWN_BYTES, Device

log = logging.getLogger("router.devices")

DOES_NOT_ANSWER = "its driver does not answer"
START_LIMIT_S = 10.0  # that a driver has to find its GPUs at the start of the router
# While some GPUs of a driver can be read, the driver is opened anew at most so often for those that cannot: that may
# take a second, in which none can be read. After each time in vain the pause doubles.
MIN_PAUSE_S = 2.0
MAX_PAUSE_S = 15.0


class GpuMemory(Protocol):
    """The memory of one GPU, as its driver reports it, in bytes. All methods raise OSError or ValueError, whose text
    says why to a person."""

    def free(self) -> int: ...

    def used(self, pids: Collection[int]) -> int:
        """What these processes hold together; 0 if the driver does not report it."""


class Gpu(NamedTuple):
    """`memory` is None for a GPU that could not be read when it was found; then `problem` says why."""

    device: Device
    memory: GpuMemory | None
    problem: str = ""


class Driver(Protocol):
    """What finds the GPUs of one vendor. It may block for ever."""

    def find(self) -> list[Gpu]:
        """All GPUs that the masks let through, in the order in which the engine counts them, with those that cannot be
        read. Each call opens the driver anew. A GPU keeps its key; its identity decides, not its index."""

    def unread(self, problem: str) -> list[Gpu]:
        """The GPUs that should be there, if none can be found for this reason."""


class _Found:
    """A driver with the GPUs that it has found last, and the search for them that is under way."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.gpus: list[Gpu] = []
        self.search: Thread | None = None
        self.next_search, self.pause = 0.0, MIN_PAUSE_S
        self._result: list[Gpu] | None = None

    def start(self, on_end: Callable[[], None]) -> None:
        """Search for the GPUs in a thread, unless such a search hangs already."""
        if not self.take_result():
            return

        def search() -> None:
            try:
                self._result = self.driver.find()
            except Exception as error:  # of a driver library in trouble anything may come
                log.debug("GPUs cannot be searched for", exc_info=error)
                self._result = self.driver.unread(str(error) or repr(error))
            on_end()

        self.search = Thread(target=search, name="router-probe", daemon=True)
        self.search.start()

    def take_result(self) -> bool:
        """Use what the search has found. Returns whether the driver can be asked: no search is under way."""
        if self._result is not None:
            self.gpus, self._result, self.search = self._result, None, None
        return self.search is None


class Gpus:
    """The GPUs of these drivers, in their order.

    `on_change` is called when other GPUs are known than before, or other sizes.
    """

    def __init__(self, drivers: Iterable[Driver], start_limit: float = START_LIMIT_S) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.problems: dict[str, str] = {}  # why GPUs could not be read the last time, by device key
        self._found = [_Found(driver) for driver in drivers]
        self._hung: dict[str, Thread] = {}  # the thread that asks a GPU, by device key
        self._lock = asyncio.Lock()
        for found in self._found:
            ended = threading.Event()
            found.start(ended.set)
            if not ended.wait(start_limit):
                log.error("a GPU driver did not answer within %.0f s at the start", start_limit)
            if not found.take_result() and not found.gpus:
                found.gpus = found.driver.unread(DOES_NOT_ANSWER)
        self.problems = {gpu.device.key: gpu.problem for gpu in self._gpus if gpu.problem}

    def __repr__(self) -> str:
        names = " ".join(device.name for device in self.devices) or "none"
        hung = ", driver hangs" if any(thread.is_alive() for thread in self._hung.values()) else ""
        return f"<Gpus {names}{hung}>"

    @property
    def all(self) -> tuple[Device, ...]:
        """With those whose size is not known, because they could never be read."""
        return tuple(gpu.device for gpu in self._gpus)

    @property
    def devices(self) -> tuple[Device, ...]:
        """Those whose size is known."""
        return tuple(device for device in self.all if device.total != UNKNOWN_BYTES)

    @property
    def _gpus(self) -> list[Gpu]:
        return [gpu for found in self._found for gpu in found.gpus]

    async def free(self, limit: float) -> dict[str, int]:
        """Free bytes by device key, of those that can be read within `limit` seconds. `problems` has the others."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit
        if not self._found or not await self._acquire(limit):
            return {}
        try:
            free, problems = await self._ask_all(lambda memory: memory.free(), deadline)
            again = [found for found in self._found if self._is_search_due(found, free, problems, loop.time())]
            if again:
                await self._search(again, deadline)
                free, problems = await self._ask_all(lambda memory: memory.free(), deadline)
            for device in self.all:
                if device.total == UNKNOWN_BYTES and free.pop(device.key, None) is not None:
                    problems[device.key] = "its size cannot be read"
            for found in self._found:
                if not any(gpu.device.key in problems for gpu in found.gpus):
                    found.pause = MIN_PAUSE_S
            self._note(problems)
            return free
        finally:
            self._lock.release()

    async def used(self, pids: Collection[int], limit: float) -> dict[str, int]:
        """What these processes hold, in bytes by device key, of the GPUs that report it within `limit` seconds."""
        deadline = asyncio.get_running_loop().time() + limit
        if not self._found or not await self._acquire(limit):
            return {}
        try:
            return (await self._ask_all(lambda memory: memory.used(pids), deadline))[0]
        finally:
            self._lock.release()

    async def _acquire(self, limit: float) -> bool:
        """One asks at a time: a driver that is opened anew answers nobody else meanwhile."""
        try:
            async with asyncio.timeout(limit):
                return await self._lock.acquire()
        except TimeoutError:
            return False

    def _is_search_due(self, found: _Found, free: Collection[str], problems: Collection[str], now: float) -> bool:
        keys = [gpu.device.key for gpu in found.gpus]
        lost = [key for key in keys if key in problems]
        # A driver that hangs cannot be opened anew.
        if found.search is not None or any(self._is_hung(key) for key in keys):
            return False
        if any(gpu.device.total == UNKNOWN_BYTES and gpu.device.key in free for gpu in found.gpus):
            return True  # it is there now, and its size can be read
        if not lost or len(lost) == len(keys):
            return bool(lost)
        if now < found.next_search:
            return False
        found.next_search, found.pause = now + found.pause, min(2 * found.pause, MAX_PAUSE_S)
        return True

    def _is_hung(self, key: str) -> bool:
        return key in self._hung and self._hung[key].is_alive()

    async def _search(self, again: Sequence[_Found], deadline: float) -> None:
        """Open these drivers anew, and see what they find until then."""
        loop, before = asyncio.get_running_loop(), self.all
        ends = []
        for found in again:
            end = asyncio.Event()
            found.start(partial(_call_soon, loop, end.set))
            ends.append(end.wait())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await asyncio.gather(*ends)
        for found in again:
            found.take_result()
        if self.all != before:
            self.on_change()

    async def _ask_all(
        self, question: Callable[[GpuMemory], int], deadline: float
    ) -> tuple[dict[str, int], dict[str, str]]:
        """Ask each GPU in a thread of its own: the answers, and the problems of the others, by device key."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        answers, problems, threads = dict[str, int](), dict[str, str](), dict[str, Thread]()
        lock, left, began = threading.Lock(), 0, loop.time()

        def ask(key: str, memory: GpuMemory) -> None:
            nonlocal left
            try:
                answers[key] = question(memory)
            except Exception as error:  # of a driver library in trouble anything may come
                problems[key] = str(error) or repr(error)
            with lock:
                left -= 1
                is_last = not left
            if is_last:
                _call_soon(loop, done.set)

        for found in self._found:
            is_open = found.take_result()
            for gpu in found.gpus:
                key = gpu.device.key
                if not is_open or self._is_hung(key):
                    problems[key] = DOES_NOT_ANSWER
                elif gpu.memory is None:
                    problems[key] = gpu.problem
                else:
                    threads[key] = Thread(target=ask, args=(key, gpu.memory), name="router-probe", daemon=True)
        left = len(threads)
        for thread in threads.values():
            thread.start()
        if threads:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await done.wait()
        silent = [key for key in threads if key not in answers and key not in problems]
        if silent:
            self._hung |= {key: threads[key] for key in silent}
            problems |= dict.fromkeys(silent, DOES_NOT_ANSWER)
            log.warning("%s: the GPU driver did not answer within %.1f s", ", ".join(silent), loop.time() - began)
        return {**answers}, {**problems}

    def _note(self, problems: dict[str, str]) -> None:
        """Log what has changed since the last reading."""
        before, self.problems = self.problems, problems
        for gpu in self._gpus:
            key = gpu.device.key
            if key in problems and problems[key] != before.get(key):
                log.error("%s takes no model until it can be read again: %s", key, problems[key])
            elif key in before and key not in problems:
                log.warning("%s can be read again", key)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """From another thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(callback)
