"""A machine without processes: satisfies `node.interface.Node`, and does what a test says."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.errors import LoadFailed
from router.node.interface import Child, Exit, Launch
from router.scheduling.resources import Device, Reading
from router.wire.address import Address

GIB = 2**30


class Broken(Exception):
    """What no node should raise."""


class Trouble:
    """Which calls of a node and of its children raise, and how many times from now on. `math.inf`: for ever."""

    def __init__(self, **times: float) -> None:
        self.times = times

    def strike(self, call: str) -> None:
        if self.times.get(call, 0) > 0:
            self.times[call] -= 1
            raise Broken(call)


class FakeChild:
    """Loads until the test says so (`load`), lives until `die` or `stop`."""

    _pids = itertools.count(100_000)

    def __init__(self, launch: Launch, *, autoload: bool, brief: bool = False, trouble: Trouble | None = None) -> None:
        self.launch = launch
        self._trouble = trouble or Trouble()
        self.pid = next(self._pids)
        self.started = float(self.pid)
        self.address = Address(path=f"/fake/{launch.model}-{self.pid}.sock")
        self.key = f"key-{self.pid}"
        self.log: tuple[str, ...] = ("fake log",)
        self.stops = 0
        self.hangs = False
        self._brief = brief
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self._loaded = asyncio.Event()
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        if autoload:
            self._loaded.set()

    @property
    def is_alive(self) -> bool:
        return not self._exit.done()

    def load(self) -> None:
        self._loaded.set()

    def die(self, code: int = -9, sentence: str = "it was killed by signal 9", **more: Any) -> None:
        """`more` are fields of `Exit`."""
        if not self._exit.done():
            self._exit.set_result(Exit(code, sentence, **more))

    async def ready(self) -> Mapping[str, Any]:
        self._trouble.strike("ready")
        loaded = asyncio.ensure_future(self._loaded.wait())
        ends: set[asyncio.Future[Any]] = {loaded, self._exit}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        loaded.cancel()
        if self._exit.done():
            raise LoadFailed(self._exit.result().sentence)
        if self._brief:
            self.die()
        return {"id": self.launch.model}

    async def wait(self) -> Exit:
        self._trouble.strike("wait")
        return await asyncio.shield(self._exit)

    async def shows_life(self, within: float) -> bool:
        if not self.hangs:
            return True
        await asyncio.sleep(within)
        return not self.hangs

    async def kill(self) -> Exit:
        self.die(-9, "it was killed")
        return await self.wait()

    async def stop(self) -> Exit:
        self._trouble.strike("stop")
        self.stops += 1
        await self.may_stop.wait()
        self.die(0, "it was stopped")
        return await self.wait()


@dataclass
class FakeNode:
    """`devices` with `foreign` bytes taken by other programs; what a child holds is taken at its start and free again
    when it is gone, `held` telling how much by model. With `brief`, a child dies as soon as it serves."""

    devices: tuple[Device, ...] = (Device("local", "RAM", "host", 64 * GIB),)
    name: str = "local"
    autoload: bool = True
    brief: bool = False
    foreign: dict[str, int] = field(default_factory=dict)
    held: dict[str, dict[str, int]] = field(default_factory=dict)
    children: list[FakeChild] = field(default_factory=list)
    probes: list[Mapping[str, int]] = field(default_factory=list)
    footprints: dict[str, dict[str, int]] = field(default_factory=dict)
    prefetched: list[tuple[str, ...]] = field(default_factory=list)
    most_alive: int = 0
    trouble: Trouble = field(default_factory=Trouble)
    lost: dict[str, str] = field(default_factory=dict)  # why devices cannot be read, by key

    @property
    def alive(self) -> list[FakeChild]:
        return [child for child in self.children if child.is_alive]

    def of(self, model: str) -> FakeChild:
        """The youngest child of this model."""
        return [child for child in self.children if child.launch.model == model][-1]

    def loads(self, model: str | None = None) -> int:
        return sum(model in (None, child.launch.model) for child in self.children)

    async def probe(self, expected: Mapping[str, int], enough: Mapping[str, int] | None = None) -> tuple[Reading, ...]:
        self.probes.append(expected)
        self.trouble.strike("probe")
        await asyncio.sleep(0)
        return tuple(
            Reading(d, None, self.lost[d.key]) if d.key in self.lost else Reading(d, self._free(d))
            for d in self.devices
        )

    def _free(self, device: Device) -> int:
        taken = sum(self.held.get(child.launch.model, {}).get(device.key, 0) for child in self.alive)
        return device.total - taken - self.foreign.get(device.key, 0)

    async def footprint(self, child: Child) -> Mapping[str, int]:
        assert isinstance(child, FakeChild)
        self.trouble.strike("footprint")
        return self.footprints.get(child.launch.model, {})

    def prefetch(self, files: Sequence[Path]) -> None:
        self.trouble.strike("prefetch")
        self.prefetched.append(tuple(file.name for file in files))

    async def spawn(self, launch: Launch) -> FakeChild:
        self.trouble.strike("spawn")
        await asyncio.sleep(0)
        assert all(child.launch.model != launch.model for child in self.alive), "two processes of one model"
        child = FakeChild(launch, autoload=self.autoload, brief=self.brief, trouble=self.trouble)
        self.children.append(child)
        self.most_alive = max(self.most_alive, len(self.alive))
        return child
