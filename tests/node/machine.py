"""A machine for tests of its devices: a root folder with `proc` and `sys` below it, and a simulated NVIDIA driver."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from router.node.devices import Devices
from router.scheduling.resources import Reading
from tests.waiting import PATIENCE_S

MIB = 2**20
GIB = 2**30
# For tests that use the simulated driver.
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the simulated driver reads /proc")


class Host:
    """A root folder with `proc` and `sys` below it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.memory(64 * GIB, 48 * GIB)

    def memory(self, total: int, available: int) -> None:
        self.write(
            "proc/meminfo", f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\n"
        )

    def write(self, path: str, value: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")

    def group_v2(self, path: str, limit: object, usage: int, cache: int = 0) -> None:
        folder = f"sys/fs/cgroup/{path}"
        self.write(f"{folder}/memory.max", limit)
        self.write(f"{folder}/memory.current", usage)
        self.write(f"{folder}/memory.stat", f"anon 5\nactive_file {cache // 2}\ninactive_file {cache // 2}")

    def card(self, number: int, address: str, total: int, used: int, uuid: str = "") -> Path:
        path = f"sys/devices/{address}"
        self.write(f"{path}/mem_info_vram_total", total)
        self.write(f"{path}/mem_info_vram_used", used)
        if uuid:
            self.write(f"{path}/unique_id", uuid)
        link = self.root / f"sys/class/drm/card{number}/device"
        link.parent.mkdir(parents=True)
        link.symlink_to(self.root / path)
        return self.root / path

    def devices(self, environ: Mapping[str, str] | None = None, memory_limit: int | None = None) -> Devices:
        return Devices(environ or {}, memory_limit, root=self.root)


def free_by_name(readings: tuple[Reading, ...]) -> dict[str, int | None]:
    return {reading.device.name: reading.free for reading in readings}


async def lost(devices: Devices) -> dict[str, str]:
    """Why GPUs cannot be read now, by name."""
    return {reading.device.name: reading.lost for reading in await devices.read() if reading.lost}


async def until_none_is_lost(devices: Devices) -> None:
    """Reads again and again: a driver that answers for another GPU is not opened anew at each reading."""
    async with asyncio.timeout(PATIENCE_S):
        while await lost(devices):
            await asyncio.sleep(0.01)
