"""NVIDIA GPUs, by a simulated driver."""

from __future__ import annotations

import subprocess

import pynvml
import pytest

from router.node.visibility import masks_for
from tests import nvml
from tests.node.machine import GIB, ON_LINUX, Host, free_by_name
from tests.nvml import FakeNvml, Mig

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


def test_gpus_are_called_as_they_are_sold(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices()
    assert [device.label for device in devices.list()] == ["Fake GPU 0", "Fake GPU 1", ""]


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


# MIG


def divided(gpus: FakeNvml) -> None:
    """The first GPU has two instances, of 10 and 5 GiB; the second GPU is whole."""
    gpus.divide(0, Mig(1, 0, 10 * GIB), Mig(5, 0, 5 * GIB))


FIRST, SECOND, WHOLE = nvml.mig_uuid(0, 0), nvml.mig_uuid(0, 1), nvml.gpu_uuid(1)


# B-D11
@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, [(FIRST, 10), (SECOND, 5), (WHOLE, 16)]),
        (FIRST, [(FIRST, 10)]),
        (f"{SECOND},{FIRST}", [(SECOND, 5), (FIRST, 10)]),
        (FIRST.lower(), [(FIRST, 10)]),
        (f"MIG-{nvml.gpu_uuid(0)}/5/0", [(SECOND, 5)]),
        (f"MIG-{nvml.gpu_uuid(0)}/1/0,1", [(FIRST, 10), (WHOLE, 16)]),
        (f"{WHOLE},{SECOND}", [(WHOLE, 16), (SECOND, 5)]),
        ("0", [(FIRST, 10), (SECOND, 5)]),
        ("1", [(WHOLE, 16)]),
    ],
)
async def test_mig_instances_that_a_mask_lets_through_are_devices(
    host: Host, gpus: FakeNvml, mask: str | None, expected: list[tuple[str, int]]
) -> None:
    divided(gpus)
    devices = host.devices({} if mask is None else {"CUDA_VISIBLE_DEVICES": mask})
    found = [d for d in devices.list() if d.kind == "gpu"]
    assert [(d.uuid, d.total // GIB) for d in found] == expected
    assert [d.name for d in found] == [f"CUDA{n}" for n in range(len(found))]
    assert [d.is_alone for d in found] == [uuid != WHOLE for uuid, _ in expected]
    readings = free_by_name(await devices.read())
    assert [readings[d.name] for d in found] == [gib * GIB for _, gib in expected]
    for device in found:  # a child gets its device by UUID: where GPUs are divided, indices are not certain
        assert masks_for([device], devices.list())["CUDA_VISIBLE_DEVICES"] == device.uuid


# B-D11
@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (nvml.mig_uuid(0, 5), "not among the GPUs"),
        (f"MIG-{nvml.gpu_uuid(0)}/9/0", "not among the GPUs"),
        (nvml.gpu_uuid(7), "not among the GPUs"),
        ("7", "not among the GPUs"),
    ],
)
async def test_what_a_mask_names_and_is_not_there_is_lost_and_not_ram(
    host: Host, gpus: FakeNvml, mask: str, words: str
) -> None:
    divided(gpus)
    devices = host.devices({"CUDA_VISIBLE_DEVICES": mask})
    assert [device.kind for device in devices.all()] == ["gpu", "host"]
    (reading, _) = await devices.read()
    assert words in reading.lost
    assert reading.device.uuid == mask


async def test_an_instance_that_is_made_later_is_used(host: Host, gpus: FakeNvml) -> None:
    gpus.divide(0)  # B-D11
    devices = host.devices({"CUDA_VISIBLE_DEVICES": f"{FIRST},0"})
    assert devices.list()[0].kind == "host"
    assert "no instance" in (await devices.read())[1].lost
    divided(gpus)
    readings = await devices.read()
    assert [(r.device.uuid, r.free, r.lost) for r in readings[:2]] == [(FIRST, 10 * GIB, ""), (SECOND, 5 * GIB, "")]


async def test_a_gpu_in_mig_mode_without_an_instance_is_said(host: Host, gpus: FakeNvml) -> None:
    gpus.divide(0)  # B-D11
    devices = host.devices()
    assert [device.name for device in devices.list()] == ["CUDA1", "RAM"]
    assert "it is in MIG mode and has no instance" in (await devices.read())[0].lost


async def test_a_gpu_that_is_divided_while_the_router_runs_is_lost(host: Host, gpus: FakeNvml) -> None:
    devices = host.devices({"CUDA_VISIBLE_DEVICES": "0"})  # B-D11
    divided(gpus)
    gpus.change(0, status=nvml.NO_PERMISSION)
    assert "put into MIG mode" in (await devices.read())[0].lost


async def test_one_instance_that_cannot_be_read_does_not_hide_the_others(host: Host, gpus: FakeNvml) -> None:
    gpus.divide(0, Mig(1, 0, 10 * GIB, status=nvml.LOST), Mig(5, 0, 5 * GIB))  # B-D11 B-S18
    devices = host.devices()
    assert free_by_name(await devices.read()) == {
        "CUDA0": None,
        "CUDA1": 5 * GIB,
        "CUDA2": 16 * GIB,
        "RAM": 48 * GIB,
    }
    divided(gpus)
    assert free_by_name(await devices.read())["CUDA0"] == 10 * GIB


async def test_an_instance_that_was_removed_is_lost(host: Host, gpus: FakeNvml) -> None:
    divided(gpus)  # B-D11
    devices = host.devices({"CUDA_VISIBLE_DEVICES": SECOND})
    gpus.divide(0, Mig(1, 0, 10 * GIB))
    assert "not among the GPUs" in (await devices.read())[0].lost
    assert len(devices.list()) == 2


async def test_processes_of_an_instance_are_counted(
    host: Host, gpus: FakeNvml, program: subprocess.Popen[bytes]
) -> None:
    divided(gpus)  # B-D11
    gpus.claim(program.pid, {1001: GIB})
    devices = host.devices({"CUDA_VISIBLE_DEVICES": SECOND})
    assert (await devices.read())[0].free == 4 * GIB
    assert (await devices.footprint([program.pid]))["local/CUDA0"] == GIB
