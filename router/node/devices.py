"""What memory this machine has, and how much of it is free now.

GPUs come from NVML (NVIDIA) or sysfs (AMD), in the order in which the engine counts them, and RAM is always the last
device. A GPU that shares the machine's RAM is not listed: RAM is the device then, and no mask hides the GPU from the
engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Protocol

import psutil
import pynvml

from router.scheduling.resources import Device, Reading

log = logging.getLogger("router.devices")

MIB = 2**20
PROBE_LIMIT = 1.0  # seconds after which a probe counts as hung
SETTLE_LIMIT = 2.0  # seconds that settling may take, probes included
SETTLE_STEP = 0.05  # seconds between two samples
CARVE_OUT = 2048 * MIB  # less VRAM than this is what a BIOS sets aside for an integrated AMD GPU
MASKS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")  # an empty one hides every GPU


class Probe(Protocol):
    """One GPU's driver. Answers in bytes; raises OSError or ValueError."""

    def free(self) -> int: ...

    def used(self, pids: Collection[int]) -> int:
        """What these processes hold; 0 where the driver does not tell."""


class Devices:
    """The devices of one machine; which ones there are is fixed when this is made.

    `environ` holds the visibility masks, `memory_limit` is the most RAM to plan with, in bytes, `root` the folder above
    `proc` and `sys`. Making it starts the NVIDIA driver, which may take a second.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        memory_limit: int | None = None,
        *,
        node: str = "local",
        root: Path = Path("/"),
    ) -> None:
        self._gpus = [*_nvidia(environ, node), *_amd(environ, node, root)]
        self._ram = _Ram(root, memory_limit)
        self._host = Device(node, "RAM", "host", self._ram.total)
        self._hung: Thread | None = None

    def list(self) -> tuple[Device, ...]:
        return (*(device for device, _ in self._gpus), self._host)

    async def read(self) -> tuple[Reading, ...]:
        """Free memory now, in the order of `list`. Never raises and takes a second at most: a device that cannot be
        read, or is behind one that hangs, has `free=None`."""
        return await self._sample(PROBE_LIMIT)

    async def settle(self, expected: Mapping[str, int]) -> tuple[Reading, ...]:
        """Like `read`, once the memory of ended processes is back; two seconds at most.

        `expected` are the free bytes to wait for, by device key. Drivers give memory back some time after the process
        is gone, and in steps. RAM is back with the process, so only GPUs are waited for.
        """
        deadline = asyncio.get_running_loop().time() + SETTLE_LIMIT
        readings, previous = await self.read(), None
        wanted = {device.key: expected[device.key] for device, _ in self._gpus if device.key in expected}
        while wanted:
            now = _free(readings)
            if not wanted.keys() <= now.keys():
                log.debug("not waiting for memory to settle: of %s only %s can be read", [*wanted], [*now])
                break
            back = all(now[key] >= level or _agree(now[key], level) for key, level in wanted.items())
            if back and previous and all(_agree(now[key], previous[key]) for key in now if key in previous):
                break
            left = deadline - asyncio.get_running_loop().time()
            if left < 2 * SETTLE_STEP:
                log.debug("memory did not settle within %.1f s: %s free, %s expected", SETTLE_LIMIT, now, wanted)
                break
            await asyncio.sleep(SETTLE_STEP)
            previous, readings = now, await self._sample(min(PROBE_LIMIT, left - SETTLE_STEP))
        return readings

    def spare(self) -> int:
        """Bytes of RAM that files may take in the page cache without pushing out what processes have mapped. Blocks for
        less than a millisecond."""
        return self._ram.spare()

    async def footprint(self, pids: Collection[int]) -> Mapping[str, int]:
        """What these processes hold together, by device key. Of RAM that is what they have for themselves: pages of
        files are shared, and the kernel can take them back. A GPU whose driver does not tell is left out."""
        used = await self._ask(lambda probe: probe.used(pids), PROBE_LIMIT) if self._gpus else {}
        return {**{key: count for key, count in used.items() if count}, self._host.key: sum(map(_private, pids))}

    async def _sample(self, limit: float) -> tuple[Reading, ...]:
        free = await self._ask(lambda probe: probe.free(), limit) if self._gpus else {}
        gpus = (Reading(device, free.get(device.key)) for device, _ in self._gpus)
        return (*gpus, Reading(self._host, self._ram.free()))

    async def _ask(self, question: Callable[[Probe], int], limit: float) -> dict[str, int]:
        """The answer by the key of each GPU that gave one in time.

        A driver in trouble can block for ever, so it is asked in a daemon thread, which the end of the program does
        not wait for, and not again before that thread has come back.
        """
        if self._hung and self._hung.is_alive():
            return {}
        loop, done, answers = asyncio.get_running_loop(), asyncio.Event(), dict[str, int]()

        def ask() -> None:
            for device, probe in self._gpus:
                try:
                    answers[device.key] = question(probe)
                except (OSError, ValueError) as error:
                    log.debug("%s cannot be read: %s", device.key, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done.set)

        thread = Thread(target=ask, name="router-probe", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(limit):
                await done.wait()
        except TimeoutError:
            self._hung = thread
            log.warning("the GPU driver did not answer within %.1f s; planning with our own books until it does", limit)
        return dict(answers)


def _free(readings: Sequence[Reading]) -> dict[str, int]:
    return {r.device.key: r.free for r in readings if r.device.kind == "gpu" and r.free is not None}


def _agree(one: int, other: int) -> bool:
    return abs(one - other) <= max(256 * MIB, max(one, other) // 50)


def _visible(mask: str | None, uuids: Sequence[str]) -> list[int]:
    """The positions that a visibility mask lets through, in its order; no mask lets all through.

    The rules are CUDA's (Programming Guide, environment variables): indices or unique beginnings of UUIDs, and the
    first entry that names no device ends the list. What stands between two commas may be empty.
    """
    if mask is None:
        return [*range(len(uuids))]
    chosen: list[int] = []
    for entry in filter(None, (word.strip().lower() for word in mask.split(","))):
        if entry.isdecimal():
            found = [int(entry)] if int(entry) < len(uuids) else []
        else:
            found = [index for index, uuid in enumerate(uuids) if uuid.lower().startswith(entry)]
        if len(found) != 1:
            log.info("the visibility mask %r ends before %r: no such GPU, or not just one", mask, entry)
            break
        chosen += [index for index in found if index not in chosen]
    return chosen


# NVIDIA


def _nvidia(environ: Mapping[str, str], node: str) -> list[tuple[Device, Probe]]:
    """`index` is the position by PCI address: that of CUDA under CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        log.debug("no NVIDIA GPUs: %s", error)
        return []
    boards = []
    for number in range(count):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            pci = pynvml.nvmlDeviceGetPciInfo(handle)
            place = pci.domain, pci.bus, pci.device
            boards.append((place, pynvml.nvmlDeviceGetUUID(handle), _capacity(handle), handle))
        except pynvml.NVMLError as error:
            log.warning("NVIDIA GPU %d is left out: %s", number, error)
    boards.sort(key=lambda board: board[0])
    visible = _visible(environ.get("CUDA_VISIBLE_DEVICES"), [uuid for _, uuid, _, _ in boards])
    devices: list[tuple[Device, Probe]] = []
    for position, index in enumerate(visible):
        _, uuid, total, handle = boards[index]
        if total:
            devices.append((Device(node, f"CUDA{position}", "gpu", total, index, uuid), _NvmlProbe(handle)))
    return devices


def _capacity(handle: object) -> int:
    """Bytes that programs can have, which is less than the board has; 0 when it has none of its own."""
    try:
        info = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return int(info.total - info.reserved)
    except pynvml.NVMLError_NotSupported:
        return 0
    except pynvml.NVMLError_FunctionNotFound:  # drivers before 510 do not tell what they reserve
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)


@dataclass(frozen=True, slots=True)
class _NvmlProbe:
    handle: object

    def free(self) -> int:
        try:
            return int(pynvml.nvmlDeviceGetMemoryInfo(self.handle).free)
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    def used(self, pids: Collection[int]) -> int:
        """In a container the driver may tell the host's process numbers, which are nobody's here."""
        try:
            running = [
                *pynvml.nvmlDeviceGetComputeRunningProcesses(self.handle),
                *pynvml.nvmlDeviceGetGraphicsRunningProcesses(self.handle),
            ]
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error
        # One that computes and draws is in both lists, with the same figure.
        found = {process.pid: process.usedGpuMemory or 0 for process in running if process.pid in pids}
        return sum(found.values())


# AMD


def _amd(environ: Mapping[str, str], node: str, root: Path) -> list[tuple[Device, Probe]]:
    """`index` is the position by PCI address: that of ROCR_VISIBLE_DEVICES. HIP counts within what that lets through,
    and reads CUDA's mask when it has none of its own (ROCm documentation, GPU isolation)."""
    cards = {card.resolve() for card in root.glob("sys/class/drm/card*/device")}
    boards: list[tuple[Path, str, int]] = []
    for card in sorted(cards, key=lambda card: card.name):
        if (card / "mem_info_vram_total").exists():
            try:
                uuid = f"GPU-{_text(card / 'unique_id')}" if (card / "unique_id").exists() else ""
                boards.append((card, uuid, int(_text(card / "mem_info_vram_total"))))
            except (OSError, ValueError) as error:
                log.warning("AMD GPU %s is left out: %s", card.name, error)
    uuids = [uuid for _, uuid, _ in boards]
    outer = _visible(environ.get("ROCR_VISIBLE_DEVICES"), uuids)
    mask = environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES"))
    visible = [outer[position] for position in _visible(mask, [uuids[index] for index in outer])]
    devices: list[tuple[Device, Probe]] = []
    for position, index in enumerate(visible):
        card, uuid, total = boards[index]
        if total >= CARVE_OUT:
            probe = _SysfsProbe(card / "mem_info_vram_used", total)
            devices.append((Device(node, f"ROCm{position}", "gpu", total, index, uuid), probe))
    return devices


@dataclass(frozen=True, slots=True)
class _SysfsProbe:
    in_use: Path
    total: int

    def free(self) -> int:
        return self.total - int(_text(self.in_use))

    def used(self, pids: Collection[int]) -> int:
        return 0


# RAM


def _private(pid: int) -> int:
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


@dataclass(frozen=True, slots=True)
class _Control:
    """How one version of control groups names things."""

    limit: str
    usage: str
    cache: tuple[str, ...]  # file pages, which the kernel takes back before it kills anyone
    mapped: str  # those that processes use


V1 = _Control(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
    "total_mapped_file",
)
V2 = _Control("memory.max", "memory.current", ("active_file", "inactive_file"), "file_mapped")


class _Ram:
    """The machine's memory, within the limits of every control group above this process, and within the cap."""

    def __init__(self, root: Path, cap: int | None) -> None:
        self._meminfo = root / "proc/meminfo"
        self._groups = [*_groups(root)]
        machine, *_ = self._machine()
        limits = [limit for limit, *_ in self._headrooms(machine)]
        self.total = min([machine, *limits, *([cap] if cap is not None else [])])

    def free(self) -> int | None:
        try:
            machine, available, _ = self._machine()
            return max(0, min([self.total, available, *(room for _, room, _ in self._headrooms(machine))]))
        except (OSError, ValueError, KeyError) as error:
            log.debug("RAM cannot be read: %r", error)
            return None

    def spare(self) -> int:
        """What is available counts files that are mapped; here they do not."""
        try:
            machine, available, mapped = self._machine()
            rooms = [room - used for _, room, used in self._headrooms(machine)]
        except (OSError, ValueError, KeyError) as error:
            log.debug("RAM cannot be read: %r", error)
            return 0
        return max(0, min([available - mapped, *rooms]))

    def _machine(self) -> tuple[int, int, int]:
        """Total, available and mapped bytes, whatever the limits."""
        if not self._meminfo.exists():  # macOS, Windows
            memory = psutil.virtual_memory()
            return memory.total, memory.available, 0
        fields = _fields(self._meminfo)
        return fields["MemTotal"] * 1024, fields["MemAvailable"] * 1024, fields.get("Mapped", 0) * 1024

    def _headrooms(self, machine: int) -> Iterator[tuple[int, int, int]]:
        """Limit, what is left of it, and what is mapped, for each group that has one. Statistics cost most, so only
        those read them."""
        for group, control in self._groups:
            word = _text(group / control.limit)
            if word != "max" and (limit := int(word)) < machine:
                fields = _fields(group / "memory.stat")
                cache = sum(fields.get(name, 0) for name in control.cache)
                room = limit - max(0, int(_text(group / control.usage)) - cache)
                yield limit, room, fields.get(control.mapped, 0)


def _groups(root: Path) -> Iterator[tuple[Path, _Control]]:
    """This process's control group and those above it, as far as they can be seen: a container often sees its own as
    the top, and then the path that the kernel tells leads nowhere below it."""
    try:
        lines = _text(root / "proc/self/cgroup").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, control = (root / "sys/fs/cgroup/memory", V1) if controllers else (root / "sys/fs/cgroup", V2)
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top) and (folder / control.limit).exists():
                yield folder, control


def _fields(path: Path) -> dict[str, int]:
    """`name: 123 kB` or `name 123` lines."""
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines}


def _text(path: Path) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()
