"""A GPU in trouble does not hide the others, and a driver that hangs blocks nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from router.node.gpus import Gpu, Gpus
from router.node.visibility import masks_for
from router.scheduling.resources import UNKNOWN_BYTES, Device
from tests import nvml
from tests.node.machine import GIB, ON_LINUX, Host, free_by_name, lost, until_none_is_lost
from tests.nvml import FakeNvml

pytestmark = ON_LINUX


async def test_a_gpu_off_the_bus_does_not_hide_the_others(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()
    gpus.change(0, status=nvml.LOST)
    assert free_by_name(await devices.read()) == {"CUDA0": None, "CUDA1": 16 * GIB, "RAM": 48 * GIB}
    gpus.change(0, status=0)
    assert free_by_name(await devices.read())["CUDA0"] == 23 * GIB


async def test_a_driver_that_hangs_blocks_no_reading(
    host: Host, gpus: FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    devices = host.devices()
    gpus.change(1, status=nvml.HANG)
    assert free_by_name(await devices.read()) == {"CUDA0": 23 * GIB, "CUDA1": None, "RAM": 48 * GIB}
    assert free_by_name(await devices.read()) == {"CUDA0": 23 * GIB, "CUDA1": None, "RAM": 48 * GIB}
    assert caplog.text.count("did not answer within") == 1  # it is not asked again while it hangs
    gpus.change(1, status=0)
    for _ in range(500):
        if free_by_name(readings := await devices.read())["CUDA1"] is not None:
            break
        await asyncio.sleep(0.01)
    assert free_by_name(readings) == {"CUDA0": 23 * GIB, "CUDA1": 16 * GIB, "RAM": 48 * GIB}


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


async def test_reprs_show_what_hangs(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()
    assert repr(devices) == "<Devices local/CUDA0 local/CUDA1 local/RAM>"
    assert repr(devices._gpus) == "<Gpus CUDA0 CUDA1>"
    assert repr(devices._ram) == f"<HostMemory {64 * GIB} bytes, 0 control groups>"
    gpus.change(1, status=nvml.HANG)
    await devices.read()
    assert repr(devices._gpus) == "<Gpus CUDA0 CUDA1, driver hangs>"


# Lost, and back


# B-S18
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (nvml.LOST, "fallen off the bus"),
        (nvml.UNINITIALIZED, "driver was reset"),
        (nvml.NOT_LOADED, "driver is not loaded"),
        (nvml.MISMATCH, "different versions"),
        (nvml.UNKNOWN, "reports: Unknown Error"),
        (nvml.NOT_SUPPORTED, "does not report its memory"),
        (nvml.NO_PERMISSION, "may not use it"),
        (nvml.RESET_REQUIRED, "must be reset"),
    ],
)
async def test_a_gpu_that_cannot_be_read_has_a_reason_and_comes_back(
    host: Host, gpus: FakeNvml, status: int, words: str
) -> None:
    devices = host.devices()
    before = devices.all()
    gpus.change(1, status=status)
    for _ in range(3):
        problems = await lost(devices)
        assert problems.keys() == {"CUDA1"}
        assert words in problems["CUDA1"]
    assert [device.key for device in devices.all()] == [device.key for device in before]
    gpus.change(1, status=0)
    assert await lost(devices) == {}
    assert free_by_name(await devices.read()) == {"CUDA0": 23 * GIB, "CUDA1": 16 * GIB, "RAM": 48 * GIB}


# B-S18
@pytest.mark.parametrize("status", [nvml.NOT_LOADED, nvml.MISMATCH, nvml.UNKNOWN, nvml.UNINITIALIZED])
async def test_a_driver_that_goes_and_comes_back_is_opened_anew(host: Host, gpus: FakeNvml, status: int) -> None:
    devices = host.devices()
    gpus.driver(status)
    assert (await lost(devices)).keys() == {"CUDA0", "CUDA1"}
    assert len(devices.list()) == 3  # RAM does not take their place
    gpus.driver(generation=1)
    assert await lost(devices) == {}


async def test_a_driver_that_was_reset_between_two_readings_costs_nothing(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()  # B-S18
    gpus.driver(generation=1)
    assert await lost(devices) == {}
    gpus.driver(generation=2)
    assert free_by_name(await devices.settle({"local/CUDA0": 23 * GIB}))["CUDA0"] == 23 * GIB


async def test_gpus_are_known_by_their_uuids_when_others_are_gone(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()  # B-S18
    gpus.change(0, gone=1)
    gpus.driver(generation=1)
    gpus.change(1, others=GIB)
    assert free_by_name(await devices.read()) == {"CUDA0": None, "CUDA1": 15 * GIB, "RAM": 48 * GIB}
    chosen = [device for device in host.devices().list() if device.name == "CUDA0"]
    assert [device.uuid for device in chosen] == [nvml.gpu_uuid(1)]  # a router that starts now has another name for it
    assert masks_for(devices.list()[1:2], devices.list())["CUDA_VISIBLE_DEVICES"] in ("0", nvml.gpu_uuid(1))
    gpus.change(0, gone=0)
    gpus.driver(generation=2)
    assert await lost(devices) == {}


async def test_a_gpu_that_hangs_leaves_the_loop_free_and_comes_back(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()  # B-S18 B-D6
    gpus.driver(nvml.HANG)
    reading = asyncio.create_task(lost(devices))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert not reading.done()
    assert (await reading).keys() == {"CUDA0", "CUDA1"}
    began = asyncio.get_running_loop().time()
    assert set((await lost(devices)).values()) == {"its driver does not answer"}
    assert asyncio.get_running_loop().time() - began < 0.5  # it is not asked again while it hangs
    gpus.driver()
    await until_none_is_lost(devices)


async def test_what_is_lost_and_what_is_back_is_logged_once(
    host: Host, gpus: FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    devices = host.devices()  # B-S18
    gpus.change(0, status=nvml.LOST)
    for _ in range(3):
        await lost(devices)
    gpus.change(0, status=0)
    for _ in range(3):
        await lost(devices)
    assert caplog.text.count("local/CUDA0 takes no model until it can be read again: it has fallen off the bus") == 1
    assert caplog.text.count("local/CUDA0 can be read again") == 1


async def test_a_gpu_lost_before_the_start_joins_when_it_is_back(host: Host, gpus: FakeNvml) -> None:
    gpus.change(0, status=nvml.LOST)  # B-S18
    devices = host.devices()
    changes: list[tuple[str, ...]] = []
    devices.on_change(lambda: changes.append(tuple(device.name for device in devices.list())))
    assert (await lost(devices)).keys() == {"CUDA0"}
    assert [device.name for device in devices.list()] == ["CUDA1", "RAM"]
    gpus.change(0, status=0)
    assert await lost(devices) == {}
    assert [(d.name, d.total) for d in devices.list()[:2]] == [("CUDA0", 23 * GIB), ("CUDA1", 16 * GIB)]
    assert changes[-1] == ("CUDA0", "CUDA1", "RAM")


def sees_gpu(host: Host) -> None:
    """The kernel knows an NVIDIA GPU, and another device."""
    for number, (vendor, kind) in enumerate([("0x10de", "0x030200"), ("0x8086", "0x030000"), ("0x10de", "0x040300")]):
        host.write(f"sys/bus/pci/devices/0000:0{number}:00.0/vendor", vendor)
        host.write(f"sys/bus/pci/devices/0000:0{number}:00.0/class", kind)


@pytest.mark.parametrize("mask", [None, "0,1"])
async def test_a_driver_that_is_loaded_after_the_start_brings_its_gpus(
    host: Host, gpus: FakeNvml, mask: str | None
) -> None:
    sees_gpu(host)  # B-S18
    gpus.driver(nvml.NOT_LOADED)
    devices = host.devices({} if mask is None else {"CUDA_VISIBLE_DEVICES": mask})
    assert set((await lost(devices)).values()) == {"the NVIDIA driver is not loaded"}
    assert [device.kind for device in devices.all()] == ["gpu"] * len(await lost(devices)) + ["host"]
    gpus.driver()
    assert free_by_name(await devices.read()) == {"CUDA0": 23 * GIB, "CUDA1": 16 * GIB, "RAM": 48 * GIB}
    assert [device.total for device in devices.list()] == [23 * GIB, 16 * GIB, 64 * GIB]


async def test_a_machine_without_a_gpu_is_none_that_lost_one(host: Host, gpus: FakeNvml) -> None:
    gpus.driver(nvml.NOT_LOADED)
    assert [device.kind for device in host.devices().all()] == ["host"]
    sees_gpu(host)
    assert [device.kind for device in host.devices({"CUDA_VISIBLE_DEVICES": ""}).all()] == ["host"]


async def test_a_driver_of_another_version_is_no_machine_without_gpus(host: Host, gpus: FakeNvml) -> None:
    gpus.driver(nvml.MISMATCH)  # B-S18
    devices = host.devices()
    assert "different versions" in (await lost(devices))["CUDA0"]
    gpus.driver()
    assert await lost(devices) == {}


def test_the_library_is_loaded_anew_after_an_upgrade(gpus: FakeNvml) -> None:
    """In a process of its own: in this one the library is held by others too."""
    code = (
        "import asyncio, os, sys\n"
        "from router.node.devices import Devices\n"
        "devices = Devices(os.environ)\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    print([r.free for r in asyncio.run(devices.read())][0], flush=True)\n"
    )  # B-S18
    environ = os.environ | gpus.variables
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        gpus.driver(generation=1, version=2)
        print("go", file=process.stdin, flush=True)
        assert process.stdout.readline() == f"{23 * GIB}\n"


def test_a_driver_that_hangs_at_the_start_does_not_keep_the_router_from_starting(gpus: FakeNvml) -> None:
    class Hanging:
        def find(self) -> list[Gpu]:
            ended.wait()
            return []

        def unread(self, problem: str) -> list[Gpu]:
            return [Gpu(Device("local", "CUDA0", "gpu", UNKNOWN_BYTES), None, problem)]

    ended = threading.Event()  # B-S18
    found = Gpus([Hanging()], start_limit=0.05)
    assert found.problems == {"local/CUDA0": "its driver does not answer"}
    ended.set()


async def test_a_gpu_without_a_handle_is_no_new_gpu(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()  # B-S18
    gpus.change(1, gone=2)
    for generation in (1, 2, 3):
        gpus.driver(generation=generation)
        assert "fallen off the bus" in (await lost(devices))["CUDA1"]
        assert [device.name for device in devices.all()] == ["CUDA0", "CUDA1", "RAM"]
    assert masks_for(devices.list()[:1], devices.list())["CUDA_VISIBLE_DEVICES"] == nvml.gpu_uuid(0)
    gpus.change(1, gone=0)
    gpus.driver(generation=4)
    assert await lost(devices) == {}
    assert masks_for(devices.list()[:2], devices.list())["CUDA_VISIBLE_DEVICES"] == "0,1"


async def test_a_gpu_without_a_handle_at_the_start_joins_when_it_is_back(host: Host, gpus: FakeNvml) -> None:
    gpus.change(0, gone=2)  # B-S18
    devices = host.devices()
    assert [device.name for device in devices.all()] == ["CUDA0", "CUDA1", "RAM"]
    assert (await lost(devices)).keys() == {"CUDA0"}
    gpus.change(0, gone=0)
    assert await lost(devices) == {}
    assert [(d.name, d.uuid) for d in devices.list()[:2]] == [("CUDA0", nvml.gpu_uuid(0)), ("CUDA1", nvml.gpu_uuid(1))]


async def test_a_driver_that_hangs_while_it_is_opened_holds_up_nobody_twice(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()  # B-S18
    gpus.driver(nvml.UNKNOWN)
    await lost(devices)
    gpus.driver(nvml.HANG)
    await lost(devices)
    began = asyncio.get_running_loop().time()
    assert (await lost(devices)).keys() == {"CUDA0", "CUDA1"}
    assert asyncio.get_running_loop().time() - began < 0.5
    gpus.driver()
    await until_none_is_lost(devices)
