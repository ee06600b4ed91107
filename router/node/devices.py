"""The devices of this machine: what memory there is, and how much of it is free now.

GPUs come first, in the order in which the engine counts them: NVIDIA's from NVML, AMD's from sysfs. RAM is always the
last device. A GPU that shares the machine's RAM is not listed: then RAM is the device, and no mask hides the GPU from
the engine. `plan` makes one Devices; `local` and the commands that plan read it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from router.node.amd import AmdDriver
from router.node.gpus import Gpus
from router.node.host_memory import HostMemory, private_bytes
from router.node.nvidia import NvidiaDriver
from router.node.settling import READ_LIMIT_S, settled_readings
from router.scheduling.resources import Device, Reading


class Devices:
    """The devices of one machine. The GPUs are those that are there when this is made, and those that should be: one
    that cannot be read yet joins when it can. A GPU that is lost stays in the list, and its readings say why.

    `environ` holds the visibility masks.
    `memory_limit` is the most RAM to plan with, in bytes.
    `root` is the folder above `proc` and `sys`.

    Making it starts the NVIDIA driver, which may take a second.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        memory_limit: int | None = None,
        *,
        node: str = "local",
        root: Path = Path("/"),
    ) -> None:
        self._gpus = Gpus([NvidiaDriver(environ, node, root), AmdDriver(environ, node, root)])
        self._ram = HostMemory(root, memory_limit)
        self._host = Device(node, "RAM", "host", self._ram.total, label=self._ram.label)

    def __repr__(self) -> str:
        return f"<Devices {' '.join(device.key for device in self.list())}>"

    def list(self) -> tuple[Device, ...]:
        """All devices of a known size."""
        return (*self._gpus.devices, self._host)

    def all(self) -> tuple[Device, ...]:
        """With the GPUs that should be there, and that could not be read until now: they count as very large."""
        return (*self._gpus.all, self._host)

    @property
    def problems(self) -> Mapping[str, str]:
        """Why GPUs cannot be read, by device key, as of the last reading."""
        return self._gpus.problems

    def on_change(self, callback: Callable[[], None]) -> None:
        """`callback` is called when `all` has changed."""
        self._gpus.on_change = callback

    async def read(self) -> tuple[Reading, ...]:
        """Free memory now, in the order of `all`. Takes a second at most, and never raises.

        A device that cannot be read has `free=None`, and `lost` says why.
        """
        return await self._read_within(READ_LIMIT_S)

    async def settle(self, expected: Mapping[str, int], enough: Mapping[str, int] | None = None) -> tuple[Reading, ...]:
        """Like `read`, once the memory of ended processes is back, or as much of it as is enough; two seconds at most.

        `expected` and `enough` are the free bytes to wait for, by device key. RAM is not waited for: with `enough` on
        no GPU this is `read`.
        """
        keys = [device.key for device in self._gpus.devices]
        awaited, needed = ({key: levels[key] for key in keys if key in levels} for levels in (expected, enough or {}))
        if enough and not needed:
            awaited = {}
        return await settled_readings(self._read_within, awaited, needed)

    def spare(self) -> int:
        """Bytes of RAM that files may take in the page cache without pushing out what processes have mapped. Blocks for
        less than a millisecond."""
        return self._ram.spare()

    async def footprint(self, pids: Collection[int]) -> Mapping[str, int]:
        """Bytes that these processes hold together, by device key.

        Only RAM that a process has for itself counts: pages of files are shared, and the kernel can take them back. A
        GPU whose driver does not report it is left out.
        """
        used = await self._gpus.used(pids, READ_LIMIT_S)
        return {**{key: count for key, count in used.items() if count}, self._host.key: sum(map(private_bytes, pids))}

    async def _read_within(self, limit: float) -> tuple[Reading, ...]:
        free, problems = await self._gpus.free(limit), self._gpus.problems
        gpus = (Reading(d, free.get(d.key), problems.get(d.key, "")) for d in self._gpus.all)
        return (*gpus, Reading(self._host, self._ram.free()))
