"""A GPU in trouble does not hide the others, and a driver that hangs blocks nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from tests import nvml
from tests.node.machine import GIB, ON_LINUX, Host, free_by_name
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
