from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import psutil
import pynvml
import pytest

from router.node.devices import Devices
from router.scheduling.resources import Reading
from tests import nvml
from tests.clock import Clock
from tests.nvml import FakeNvml, Gpu

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the simulated driver reads /proc")

MIB = 2**20
GIB = 2**30


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


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    """Two GPUs of 24 and 16 GiB, seen by this process."""
    nvml.load()
    fake = FakeNvml(tmp_path / "nvml", Gpu(24 * GIB, reserved=GIB), Gpu(16 * GIB))
    monkeypatch.setenv("FAKE_NVML", str(fake.folder))
    yield fake
    for index in range(len(fake.gpus)):
        fake.change(index, status=nvml.LOST)  # ends what hangs


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    """A process that can hold memory, until killed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def free(readings: tuple[Reading, ...]) -> dict[str, int | None]:
    return {reading.device.name: reading.free for reading in readings}


# RAM


async def test_without_gpus_ram_is_the_device(host: Host) -> None:
    devices = host.devices()  # B-D5
    (ram,) = devices.list()
    assert (ram.key, ram.kind, ram.total) == ("local/RAM", "host", 64 * GIB)
    assert await devices.read() == (Reading(ram, 48 * GIB),)
    host.memory(64 * GIB, 5 * GIB)
    assert await devices.read() == (Reading(ram, 5 * GIB),)


async def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.load()
    monkeypatch.delenv("FAKE_NVML", raising=False)
    *_, (ram, available) = [(r.device, r.free) for r in await Devices({}).read()]
    assert available is not None
    assert 0 < available <= ram.total <= psutil.virtual_memory().total


async def test_without_proc_psutil_tells(tmp_path: Path) -> None:
    (reading,) = await Devices({}, root=tmp_path).read()
    assert reading.device.total == psutil.virtual_memory().total
    assert reading.free is not None


async def test_memory_limit_caps_total_and_free(host: Host) -> None:
    devices = host.devices(memory_limit=8 * GIB)  # B-S4
    assert [(r.device.total, r.free) for r in await devices.read()] == [(8 * GIB, 8 * GIB)]
    host.memory(64 * GIB, 3 * GIB)
    assert free(await devices.read()) == {"RAM": 3 * GIB}


async def test_cgroup_v2_counts_every_level_and_gives_back_file_cache(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/pod/box")  # B-D5
    host.group_v2("pod", 16 * GIB, 15 * GIB, cache=4 * GIB)
    host.group_v2("pod/box", 12 * GIB, 5 * GIB, cache=2 * GIB)
    devices = host.devices()
    assert devices.list()[-1].total == 12 * GIB
    assert free(await devices.read()) == {"RAM": 5 * GIB}  # the pod's room: 16 - (15 - 4), not the box's: 12 - (5 - 2)
    host.group_v2("pod", "max", 15 * GIB)
    assert free(await devices.read()) == {"RAM": 9 * GIB}


def test_what_is_mapped_is_not_spare(host: Host) -> None:
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
    assert free(await host.devices().read()) == {"RAM": 0}


async def test_cgroup_limit_above_the_machine_changes_nothing(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/box")
    host.group_v2("box", 128 * GIB, 100 * GIB)
    assert [(r.device.total, r.free) for r in await host.devices().read()] == [(64 * GIB, 48 * GIB)]


async def test_cgroup_v1_seen_from_inside_a_container(host: Host) -> None:
    # The kernel tells the path on the host, while the container sees its own group as the top. A controller other than
    # memory has its own path, which means nothing here.
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
    assert free(await devices.read()) == {"RAM": None}


# NVIDIA


async def test_gpus_come_before_ram_without_what_the_driver_reserves(host: Host, gpus: FakeNvml) -> None:
    gpus.change(0, others=2 * GIB)
    devices = host.devices()
    assert [(d.name, d.kind, d.total, d.index, d.uuid[:12]) for d in devices.list()] == [
        ("CUDA0", "gpu", 23 * GIB, 0, "GPU-00000000"),
        ("CUDA1", "gpu", 16 * GIB, 1, "GPU-00000001"),
        ("RAM", "host", 64 * GIB, 0, ""),
    ]
    assert free(await devices.read()) == {"CUDA0": 21 * GIB, "CUDA1": 16 * GIB, "RAM": 48 * GIB}
    gpus.change(0, others=20 * GIB)
    assert free(await devices.read())["CUDA0"] == 3 * GIB


async def test_indices_follow_the_pci_address(host: Host, gpus: FakeNvml) -> None:
    gpus.change(0, bus=0x81)  # B-D5
    gpus.change(1, bus=0x07)
    assert [(d.index, d.total) for d in host.devices().list()[:2]] == [(0, 16 * GIB), (1, 23 * GIB)]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("", []),
        (",", []),
        ("-1", []),
        ("none", []),
        ("1", [("CUDA0", 1)]),
        ("1,0,", [("CUDA0", 1), ("CUDA1", 0)]),
        (",1", [("CUDA0", 1)]),
        (" 0 , 0 ", [("CUDA0", 0)]),
        ("0,7,1", [("CUDA0", 0)]),
        ("GPU-00000001-0000-0000-0000-000000000000", [("CUDA0", 1)]),
        ("gpu-00000001,0", [("CUDA0", 1), ("CUDA1", 0)]),
        ("GPU-0", []),
    ],
)
def test_visibility_mask(host: Host, gpus: FakeNvml, mask: str, expected: list[tuple[str, int]]) -> None:
    devices = host.devices({"CUDA_VISIBLE_DEVICES": mask})  # B-D5
    assert [(d.name, d.index) for d in devices.list() if d.kind == "gpu"] == expected


async def test_gpu_off_the_bus_is_unknown_alone(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()
    gpus.change(0, status=nvml.LOST)
    assert free(await devices.read()) == {"CUDA0": None, "CUDA1": 16 * GIB, "RAM": 48 * GIB}
    gpus.change(0, status=0)
    assert free(await devices.read())["CUDA0"] == 23 * GIB


def test_gpu_lost_before_the_start_is_left_out(host: Host, gpus: FakeNvml, caplog: pytest.LogCaptureFixture) -> None:
    gpus.change(0, status=nvml.LOST)
    assert [d.total for d in host.devices().list()] == [16 * GIB, 64 * GIB]
    assert "NVIDIA GPU 0 is left out" in caplog.text


def test_driver_that_does_not_tell_what_it_reserves(host: Host, gpus: FakeNvml) -> None:
    gpus.change(0, status=nvml.FUNCTION_NOT_FOUND)
    assert host.devices().list()[0].total == 24 * GIB


def test_gpu_that_shares_the_ram_is_no_device(host: Host, gpus: FakeNvml) -> None:
    gpus.change(0, status=nvml.NOT_SUPPORTED)
    assert [d.name for d in host.devices().list()] == ["CUDA1", "RAM"]


async def test_hung_driver_holds_nobody_up(host: Host, gpus: FakeNvml, caplog: pytest.LogCaptureFixture) -> None:
    devices = host.devices()
    gpus.change(1, status=nvml.HANG)
    assert free(await devices.read()) == {"CUDA0": 23 * GIB, "CUDA1": None, "RAM": 48 * GIB}
    assert free(await devices.read()) == {"CUDA0": None, "CUDA1": None, "RAM": 48 * GIB}
    assert caplog.text.count("did not answer within") == 1  # it is not asked again while it hangs
    gpus.change(1, status=0)
    for _ in range(500):
        if free(readings := await devices.read())["CUDA1"] is not None:
            break
        await asyncio.sleep(0.01)
    assert free(readings) == {"CUDA0": 23 * GIB, "CUDA1": 16 * GIB, "RAM": 48 * GIB}


def test_the_pretended_driver_lists_the_processes_that_live(gpus: FakeNvml, program: subprocess.Popen[bytes]) -> None:
    gpus.claim(program.pid, {0: GIB, 1: 2 * GIB})
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(1)
    assert pynvml.nvmlDeviceGetName(handle) == "Fake GPU 1"
    (process,) = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert (process.pid, process.usedGpuMemory) == (program.pid, 2 * GIB)
    gpus.change(1, reclaim_ms=60_000)
    program.kill()
    program.wait()
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
    assert pynvml.nvmlDeviceGetMemoryInfo(handle).used == 2 * GIB


def test_a_process_of_its_own_sees_the_gpus_and_ends_though_the_driver_hangs(gpus: FakeNvml) -> None:
    code = (
        "import asyncio, os, sys\n"
        "from router.node.devices import Devices\n"
        "devices = Devices(os.environ)\n"
        "print([d.name for d in devices.list()], flush=True)\n"
        "sys.stdin.readline()\n"
        "print(asyncio.run(devices.read())[0].free)\n"
    )
    environ = os.environ | gpus.variables | {"CUDA_VISIBLE_DEVICES": "1"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "['CUDA0', 'RAM']\n"
        gpus.change(1, status=nvml.HANG)
        assert process.communicate("go\n", timeout=10)[0] == "None\n"


# Settling


Later = tuple[float, Callable[[], object]]


def settle(devices: Devices, expected: Mapping[str, int], *later: Later) -> tuple[dict[str, int | None], float]:
    """What was free in the end, and after how many seconds; meanwhile `later` happens, each when so many have gone."""

    async def run() -> tuple[dict[str, int | None], float]:
        loop = asyncio.get_running_loop()
        for seconds, event in later:
            loop.call_later(seconds, event)
        return free(await devices.settle(expected)), loop.time()

    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(run())


def test_memory_that_is_back_is_looked_at_twice(host: Host, gpus: FakeNvml) -> None:  # B-D6
    after, seconds = settle(host.devices(), {"local/CUDA1": 16 * GIB})
    assert after["CUDA1"] == 16 * GIB
    assert seconds == pytest.approx(0.05)


@pytest.mark.parametrize(("back", "least", "most"), [(0.42, 0.49, 0.51), (1.72, 1.79, 1.81), (60, 1.89, 2)])
def test_memory_that_comes_back_late_is_waited_for(
    host: Host, gpus: FakeNvml, back: float, least: float, most: float
) -> None:
    gpus.change(1, others=6 * GIB)  # B-D6
    after, seconds = settle(host.devices(), {"local/CUDA1": 16 * GIB}, (back, lambda: gpus.change(1, others=0)))
    assert after["CUDA1"] == (16 * GIB if back < 2 else 10 * GIB)
    assert least <= seconds <= most


def test_memory_that_still_moves_is_waited_for(host: Host, gpus: FakeNvml) -> None:
    """Another program takes 600 MiB at a time of the other GPU, several times between two samples."""
    steps = range(1, 26)  # B-D6
    moves = [(step / 100, partial(gpus.change, 1, others=step * 600 * MIB)) for step in steps]
    after, seconds = settle(host.devices(), {"local/CUDA0": 23 * GIB}, *moves)
    assert after["CUDA1"] == 16 * GIB - 25 * 600 * MIB
    assert 0.25 < seconds < 0.36


def test_a_little_less_is_not_waited_for(host: Host, gpus: FakeNvml) -> None:
    _, seconds = settle(host.devices(), {"local/CUDA0": int(23.2 * GIB)})
    assert seconds == pytest.approx(0.05)


@pytest.mark.parametrize("expected", [{}, {"local/RAM": 56 * GIB}])
def test_nothing_on_a_gpu_was_freed(host: Host, gpus: FakeNvml, expected: dict[str, int]) -> None:
    _, seconds = settle(host.devices(), expected)  # B-D6
    assert seconds == 0


def test_without_gpus_nothing_is_waited_for(host: Host) -> None:
    assert settle(host.devices(), {"local/RAM": 56 * GIB}) == ({"RAM": 48 * GIB}, 0)  # B-D6


def test_a_lost_gpu_ends_the_wait_for_its_memory(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()  # B-D6
    gpus.change(1, status=nvml.LOST)
    after, seconds = settle(devices, {"local/CUDA1": 24 * GIB})
    assert after["CUDA1"] is None
    assert seconds == 0


def test_a_hung_probe_cannot_stretch_the_wait(host: Host, gpus: FakeNvml) -> None:
    def hang() -> None:
        gpus.change(0, status=nvml.HANG)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clock)
        loop.hung = True

    after, seconds = settle(host.devices(), {"local/CUDA0": 31 * GIB}, (1.52, hang))  # B-D6
    assert after["CUDA0"] is None
    assert 1.9 < seconds < 2.01


async def test_the_loop_runs_on_while_memory_settles(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()  # B-D6: status and unload are not held up, a cancel is seen
    task = asyncio.create_task(devices.settle({"local/CUDA0": 31 * GIB}))
    assert free(await devices.settle({}))["CUDA0"] == 23 * GIB
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# AMD


async def test_amd_cards_by_pci_address(host: Host) -> None:
    host.card(0, "0000:83:00.0", 32 * GIB, 2 * GIB, "b0b0")
    lost = host.card(1, "0000:03:00.0", 16 * GIB, GIB)
    host.card(2, "0000:c1:00.0", 512 * MIB, 100 * MIB)  # an integrated one: RAM is its memory
    devices = host.devices()
    assert [(d.name, d.total, d.index, d.uuid) for d in devices.list()] == [
        ("ROCm0", 16 * GIB, 0, ""),
        ("ROCm1", 32 * GIB, 1, "GPU-b0b0"),
        ("RAM", 64 * GIB, 0, ""),
    ]
    assert free(await devices.read()) == {"ROCm0": 15 * GIB, "ROCm1": 30 * GIB, "RAM": 48 * GIB}
    (lost / "mem_info_vram_used").unlink()
    assert free(await devices.read()) == {"ROCm0": None, "ROCm1": 30 * GIB, "RAM": 48 * GIB}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"ROCR_VISIBLE_DEVICES": "1,2"}, [1, 2]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-02,0"}, [2, 0]),
        ({"HIP_VISIBLE_DEVICES": "2"}, [2]),
        ({"ROCR_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "1"}, [2]),
        ({"CUDA_VISIBLE_DEVICES": "0"}, [0]),
        ({"CUDA_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_amd_masks(host: Host, environ: dict[str, str], expected: list[int]) -> None:
    for number in range(3):
        host.card(number, f"0000:0{number}:00.0", 16 * GIB, 0, f"0{number}")
    devices = host.devices(environ)  # B-D5
    assert [d.index for d in devices.list() if d.kind == "gpu"] == expected


def test_amd_card_that_cannot_be_read_is_left_out(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    card = host.card(0, "0000:03:00.0", 16 * GIB, 0)
    (card / "mem_info_vram_total").write_text("?")
    assert [d.name for d in host.devices().list()] == ["RAM"]
    assert "AMD GPU 0000:03:00.0 is left out" in caplog.text
