"""AMD GPUs, by files as sysfs has them."""

from __future__ import annotations

import pytest

from router.node.visibility import masks_for
from tests.node.machine import GIB, MIB, ON_LINUX, Host, free_by_name, lost, until_none_is_lost

pytestmark = ON_LINUX


async def test_amd_gpus_are_numbered_by_pci_address(host: Host) -> None:
    host.card(0, "0000:83:00.0", 32 * GIB, 2 * GIB, "b0b0")
    lost = host.card(1, "0000:03:00.0", 16 * GIB, GIB)
    host.card(2, "0000:c1:00.0", 512 * MIB, 100 * MIB)  # an integrated one: RAM is its memory
    devices = host.devices()
    assert [(d.name, d.total, d.index, d.uuid) for d in devices.list()] == [
        ("ROCm0", 16 * GIB, 0, ""),
        ("ROCm1", 32 * GIB, 1, "GPU-b0b0"),
        ("RAM", 64 * GIB, 0, ""),
    ]
    assert free_by_name(await devices.read()) == {"ROCm0": 15 * GIB, "ROCm1": 30 * GIB, "RAM": 48 * GIB}
    (lost / "mem_info_vram_used").unlink()
    assert free_by_name(await devices.read()) == {"ROCm0": None, "ROCm1": 30 * GIB, "RAM": 48 * GIB}


async def test_an_amd_gpu_is_called_as_it_is_sold_also_when_it_is_lost(host: Host) -> None:
    (host.card(0, "0000:03:00.0", 16 * GIB, GIB) / "product_name").write_text("AMD Instinct MI300X\n")
    odd = host.card(1, "0000:04:00.0", 16 * GIB, GIB) / "product_name"
    odd.write_bytes(b"\xff")
    devices = host.devices()
    assert [device.label for device in devices.list()] == ["AMD Instinct MI300X", "", ""]
    (odd.parent / "mem_info_vram_total").write_text("?")
    await devices.read()
    assert [device.label for device in devices.all()] == ["AMD Instinct MI300X", "", ""]


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
def test_amd_gpus_that_masks_hide_are_not_listed(host: Host, environ: dict[str, str], expected: list[int]) -> None:
    for number in range(3):
        host.card(number, f"0000:0{number}:00.0", 16 * GIB, 0, f"0{number}")
    devices = host.devices(environ)  # B-D5
    assert [d.index for d in devices.list() if d.kind == "gpu"] == expected


def test_an_amd_gpu_that_cannot_be_read_is_left_out(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    card = host.card(0, "0000:03:00.0", 16 * GIB, 0)
    (card / "mem_info_vram_total").write_text("?")
    assert [d.name for d in host.devices().list()] == ["RAM"]
    assert "AMD GPU 0000:03:00.0 is left out" in caplog.text


async def test_an_amd_gpu_that_is_lost_has_a_reason_and_comes_back(host: Host) -> None:  # B-S18
    host.card(0, "0000:03:00.0", 16 * GIB, GIB, "aa")
    card = host.card(1, "0000:83:00.0", 32 * GIB, GIB, "bb")
    devices = host.devices()
    used = card / "mem_info_vram_used"
    text = used.read_text()
    for trouble in (used.unlink, lambda: used.write_text("?")):
        trouble()
        problems = await lost(devices)
        assert problems.keys() == {"ROCm1"}
        assert "sysfs cannot be read" in problems["ROCm1"]
        used.write_text(text)
        assert await lost(devices) == {}


async def test_an_amd_gpu_whose_driver_left_is_lost_and_the_other_is_named_by_its_uuid(host: Host) -> None:  # B-S18
    card = host.card(0, "0000:03:00.0", 16 * GIB, GIB, "aa")
    host.card(1, "0000:83:00.0", 32 * GIB, GIB, "bb")
    devices = host.devices()
    total, used = card / "mem_info_vram_total", card / "mem_info_vram_used"
    texts = total.read_text(), used.read_text()
    total.unlink()
    used.unlink()
    assert "its files in sysfs are gone" in (await lost(devices))["ROCm0"]
    other = [device for device in devices.list() if device.name == "ROCm1"]
    assert masks_for(other, devices.list()) == {"ROCR_VISIBLE_DEVICES": "GPU-bb", "HIP_VISIBLE_DEVICES": "0"}
    total.write_text(texts[0])
    used.write_text(texts[1])
    await until_none_is_lost(devices)
    other = [device for device in devices.list() if device.name == "ROCm1"]
    assert masks_for(other, devices.list())["ROCR_VISIBLE_DEVICES"] == "1"


async def test_an_amd_gpu_that_cannot_be_read_at_the_start_joins_when_it_can(host: Host) -> None:  # B-S18
    card = host.card(0, "0000:03:00.0", 16 * GIB, 0)
    (card / "mem_info_vram_total").write_text("?")
    devices = host.devices()
    assert (await lost(devices)).keys() == {"ROCm0"}
    (card / "mem_info_vram_total").write_text(f"{16 * GIB}")
    assert free_by_name(await devices.read()) == {"ROCm0": 16 * GIB, "RAM": 48 * GIB}
