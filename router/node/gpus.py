"""The GPUs of a machine, and questions to their drivers that cannot block the router.

`nvidia` and `amd` find GPUs; `devices` makes one Gpus of them and asks it for memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable
from threading import Thread
from typing import NamedTuple, Protocol

from router.scheduling.resources import Device

log = logging.getLogger("router.devices")


class GpuMemory(Protocol):
    """The memory of one GPU, as its driver reports it, in bytes. All methods raise OSError or ValueError."""

    def free(self) -> int: ...

    def used(self, pids: Collection[int]) -> int:
        """What these processes hold together; 0 if the driver does not report it."""


class Gpu(NamedTuple):
    device: Device
    memory: GpuMemory


class Gpus:
    """The GPUs, in the order in which the engine counts them.

    A driver in trouble can block for ever. So it is asked in a daemon thread: the end of the program does not wait for
    it. While one such thread hangs, no other is started.
    """

    def __init__(self, gpus: Iterable[Gpu]) -> None:
        self._gpus = tuple(gpus)
        self.devices = tuple(gpu.device for gpu in self._gpus)
        self._hung_thread: Thread | None = None

    def __repr__(self) -> str:
        hung = ", driver hangs" if self._hung_thread and self._hung_thread.is_alive() else ""
        return f"<Gpus {' '.join(device.name for device in self.devices) or 'none'}{hung}>"

    async def ask(self, question: Callable[[GpuMemory], int], limit: float) -> dict[str, int]:
        """Ask the same of each GPU: the answers by device key, of those that answer within `limit` seconds.

        free = await gpus.ask(lambda memory: memory.free(), 1.0)
        """
        if not self._gpus or (self._hung_thread and self._hung_thread.is_alive()):
            return {}
        loop, done, answers = asyncio.get_running_loop(), asyncio.Event(), dict[str, int]()

        def ask_all() -> None:
            for gpu in self._gpus:
                try:
                    answers[gpu.device.key] = question(gpu.memory)
                except (OSError, ValueError) as error:
                    log.debug("%s cannot be read: %s", gpu.device.key, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done.set)

        thread = Thread(target=ask_all, name="router-probe", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(limit):
                await done.wait()
        except TimeoutError:
            self._hung_thread = thread
            log.warning("the GPU driver did not answer within %.1f s; planning with our own books until it does", limit)
        return dict(answers)
