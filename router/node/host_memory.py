"""The machine's RAM: how much there is for children, and how much of it is free.

In a container the limit is that of a control group, not what the machine has. Linux reports both in files, and other
systems report the machine's memory through psutil. `devices` asks this before every placement, `readahead` before every
step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from router.node.kernel_files import read_fields, read_text

log = logging.getLogger("router.devices")


def private_bytes(pid: int) -> int:
    """RAM that a process has for itself; 0 if it has gone. Pages of files are shared and not counted."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


@dataclass(frozen=True, slots=True)
class _GroupFiles:
    """The names that one version of control groups gives to its files and fields."""

    limit: str
    usage: str
    cache: tuple[str, ...]  # pages of files: the kernel takes them back before it kills a process
    mapped: str  # those of them that processes have mapped


V1 = _GroupFiles(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
    "total_mapped_file",
)
V2 = _GroupFiles("memory.max", "memory.current", ("active_file", "inactive_file"), "file_mapped")


@dataclass(frozen=True, slots=True)
class _Machine:
    """Bytes of the whole machine, without any limit."""

    total: int
    available: int
    mapped: int


@dataclass(frozen=True, slots=True)
class _Headroom:
    """Bytes of one control group that has a limit."""

    limit: int
    left: int  # file pages that are not mapped count as left
    mapped: int


class HostMemory:
    """The machine's memory, within the limits of every control group above this process, and within `cap` bytes.

    `root` is the folder above `proc` and `sys`. `total` is fixed when this is made; `label` says what bounds it.
    """

    def __init__(self, root: Path, cap: int | None) -> None:
        self._meminfo = root / "proc/meminfo"
        self._groups = [*_control_groups(root)]
        machine = self._machine().total
        limits = [headroom.limit for headroom in self._headrooms(machine)]
        self.total = min([machine, *limits, *([cap] if cap is not None else [])])
        bounds = "set by hand" if self.total == cap else "limit of a control group"
        self.label = bounds if self.total < machine else ""

    def __repr__(self) -> str:
        return f"<HostMemory {self.total} bytes, {len(self._groups)} control groups>"

    def free(self) -> int | None:
        """Bytes that children can have now; None if they cannot be read."""
        try:
            machine = self._machine()
            left = [headroom.left for headroom in self._headrooms(machine.total)]
            return max(0, min([self.total, machine.available, *left]))
        except (OSError, ValueError, KeyError) as error:
            log.debug("RAM cannot be read: %r", error)
            return None

    def spare(self) -> int:
        """Bytes that files may take in the page cache without pushing out what processes have mapped.

        Unlike in `free`, mapped pages of files do not count as available here.
        """
        try:
            machine = self._machine()
            left = [headroom.left - headroom.mapped for headroom in self._headrooms(machine.total)]
        except (OSError, ValueError, KeyError) as error:
            log.debug("RAM cannot be read: %r", error)
            return 0
        return max(0, min([machine.available - machine.mapped, *left]))

    def _machine(self) -> _Machine:
        if not self._meminfo.exists():  # macOS, Windows
            memory = psutil.virtual_memory()
            return _Machine(memory.total, memory.available, 0)
        fields = read_fields(self._meminfo)
        return _Machine(fields["MemTotal"] * 1024, fields["MemAvailable"] * 1024, fields.get("Mapped", 0) * 1024)

    def _headrooms(self, machine_total: int) -> Iterator[_Headroom]:
        """The headroom of each group that has a limit below the machine's memory.

        The statistics cost most to read, so they are read for these groups only.
        """
        for folder, files in self._groups:
            word = read_text(folder / files.limit)
            if word != "max" and (limit := int(word)) < machine_total:
                fields = read_fields(folder / "memory.stat")
                cache = sum(fields.get(name, 0) for name in files.cache)
                left = limit - max(0, int(read_text(folder / files.usage)) - cache)
                yield _Headroom(limit, left, fields.get(files.mapped, 0))


def _control_groups(root: Path) -> Iterator[tuple[Path, _GroupFiles]]:
    """The folders of this process's control group and of those above it, as far as they can be seen.

    A container often sees its own group as the top. Then the path that the kernel reports does not exist below it.
    """
    try:
        lines = read_text(root / "proc/self/cgroup").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, files = (root / "sys/fs/cgroup/memory", V1) if controllers else (root / "sys/fs/cgroup", V2)
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top) and (folder / files.limit).exists():
                yield folder, files
