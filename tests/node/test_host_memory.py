"""RAM, within the limits of control groups."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from router.node.devices import Devices
from router.scheduling.resources import Reading
from tests import nvml
from tests.node.machine import GIB, ON_LINUX, Host, free_by_name

pytestmark = ON_LINUX


async def test_without_gpus_ram_is_the_device(host: Host) -> None:
    devices = host.devices()  # B-D5
    (ram,) = devices.list()
    assert (ram.key, ram.kind, ram.total) == ("local/RAM", "host", 64 * GIB)
    assert await devices.read() == (Reading(ram, 48 * GIB),)
    host.memory(64 * GIB, 5 * GIB)
    assert await devices.read() == (Reading(ram, 5 * GIB),)


async def test_ram_of_this_machine_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.load()
    monkeypatch.delenv("FAKE_NVML", raising=False)
    *_, (ram, available) = [(r.device, r.free) for r in await Devices({}).read()]
    assert available is not None
    assert 0 < available <= ram.total <= psutil.virtual_memory().total


async def test_without_proc_psutil_is_used(tmp_path: Path) -> None:
    (reading,) = await Devices({}, root=tmp_path).read()
    assert reading.device.total == psutil.virtual_memory().total
    assert reading.free is not None


async def test_memory_limit_caps_total_and_free(host: Host) -> None:
    devices = host.devices(memory_limit=8 * GIB)  # B-S4
    assert [(r.device.total, r.free) for r in await devices.read()] == [(8 * GIB, 8 * GIB)]
    assert (host.devices().list()[-1].label, devices.list()[-1].label) == ("", "set by hand")
    host.memory(64 * GIB, 3 * GIB)
    assert free_by_name(await devices.read()) == {"RAM": 3 * GIB}


async def test_cgroup_v2_counts_every_level_and_gives_back_file_cache(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/pod/box")  # B-D5
    host.group_v2("pod", 16 * GIB, 15 * GIB, cache=4 * GIB)
    host.group_v2("pod/box", 12 * GIB, 5 * GIB, cache=2 * GIB)
    devices = host.devices()
    assert devices.list()[-1].total == 12 * GIB
    assert devices.list()[-1].label == "limit of a control group"
    # The room of the pod, 16 - (15 - 4), is less than that of the box, 12 - (5 - 2).
    assert free_by_name(await devices.read()) == {"RAM": 5 * GIB}
    host.group_v2("pod", "max", 15 * GIB)
    assert free_by_name(await devices.read()) == {"RAM": 9 * GIB}


def test_mapped_files_are_not_spare(host: Host) -> None:
    host.write("proc/meminfo", f"MemTotal: {64 << 20} kB\nMemAvailable: {48 << 20} kB\nMapped: {20 << 20} kB")
    assert host.devices().spare() == 28 * GIB
    host.write("proc/self/cgroup", "0::/box")
    host.group_v2("box", 12 * GIB, 8 * GIB, cache=6 * GIB)
    stat = host.root / "sys/fs/cgroup/box/memory.stat"
    host.write("sys/fs/cgroup/box/memory.stat", f"{stat.read_text()}file_mapped {5 * GIB}")
    assert host.devices().spare() == 5 * GIB  # the box's: 12 - (8 - 6) - 5
    devices = host.devices()
    (host.root / "proc/meminfo").write_text("")
    assert devices.spare() == 0


async def test_cgroup_over_its_limit_has_nothing_free(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/")
    host.group_v2("", 4 * GIB, 5 * GIB)
    assert free_by_name(await host.devices().read()) == {"RAM": 0}


async def test_cgroup_limit_above_the_machine_changes_nothing(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/box")
    host.group_v2("box", 128 * GIB, 100 * GIB)
    assert [(r.device.total, r.free) for r in await host.devices().read()] == [(64 * GIB, 48 * GIB)]


async def test_cgroup_v1_seen_from_inside_a_container(host: Host) -> None:
    # The kernel reports the path on the host, but the container sees its own group as the top. Controllers other than
    # memory have paths of their own, which mean nothing here.
    host.write("proc/self/cgroup", "9:pids:/other\n4:cpu,memory:/docker/abc\n0::/docker/abc")
    for folder, limit in (("", 8 * GIB), ("other", GIB)):
        host.write(f"sys/fs/cgroup/memory/{folder}/memory.limit_in_bytes", limit)
        host.write(f"sys/fs/cgroup/memory/{folder}/memory.usage_in_bytes", 6 * GIB)
        stat = f"active_file 1\ntotal_active_file {GIB}\ntotal_inactive_file {GIB}"
        host.write(f"sys/fs/cgroup/memory/{folder}/memory.stat", stat)
    assert [(r.device.total, r.free) for r in await host.devices().read()] == [(8 * GIB, 4 * GIB)]


async def test_ram_that_cannot_be_read_is_unknown(host: Host) -> None:
    devices = host.devices()
    host.write("proc/meminfo", "MemTotal: what kB")
    assert free_by_name(await devices.read()) == {"RAM": None}
