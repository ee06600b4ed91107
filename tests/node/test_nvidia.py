"""NVIDIA GPUs, by a simulated driver."""

from __future__ import annotations

import subprocess

import pynvml
import pytest

from tests import nvml
from tests.node.machine import GIB, ON_LINUX, Host, free_by_name
from tests.nvml import FakeNvml

pytestmark = ON_LINUX


async def test_gpus_come_before_ram_without_what_the_driver_reserves(host: Host, gpus: FakeNvml) -> None:
    gpus.change(0, others=2 * GIB)
    devices = host.devices()
    assert [(d.name, d.kind, d.total, d.index, d.uuid[:12]) for d in devices.list()] == [
        ("CUDA0", "gpu", 23 * GIB, 0, "GPU-00000000"),
        ("CUDA1", "gpu", 16 * GIB, 1, "GPU-00000001"),
        ("RAM", "host", 64 * GIB, 0, ""),
    ]
    assert free_by_name(await devices.read()) == {"CUDA0": 21 * GIB, "CUDA1": 16 * GIB, "RAM": 48 * GIB}
    gpus.change(0, others=20 * GIB)
    assert free_by_name(await devices.read())["CUDA0"] == 3 * GIB


async def test_nvidia_gpus_are_numbered_by_pci_address(host: Host, gpus: FakeNvml) -> None:
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
def test_gpus_that_a_mask_hides_are_not_listed(
    host: Host, gpus: FakeNvml, mask: str, expected: list[tuple[str, int]]
) -> None:
    devices = host.devices({"CUDA_VISIBLE_DEVICES": mask})  # B-D5
    assert [(d.name, d.index) for d in devices.list() if d.kind == "gpu"] == expected


def test_a_gpu_lost_before_the_start_is_left_out(host: Host, gpus: FakeNvml, caplog: pytest.LogCaptureFixture) -> None:
    gpus.change(0, status=nvml.LOST)
    assert [d.total for d in host.devices().list()] == [16 * GIB, 64 * GIB]
    assert "NVIDIA GPU 0 is left out" in caplog.text


def test_a_driver_may_not_report_what_it_reserves(host: Host, gpus: FakeNvml) -> None:
    gpus.change(0, status=nvml.FUNCTION_NOT_FOUND)
    assert host.devices().list()[0].total == 24 * GIB


def test_a_gpu_that_shares_the_ram_is_no_device(host: Host, gpus: FakeNvml) -> None:
    gpus.change(0, status=nvml.NOT_SUPPORTED)
    assert [d.name for d in host.devices().list()] == ["CUDA1", "RAM"]


def test_the_simulated_driver_lists_the_processes_that_live(gpus: FakeNvml, program: subprocess.Popen[bytes]) -> None:
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
