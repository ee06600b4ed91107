"""Masks that hide GPUs from a child."""

from __future__ import annotations

import pytest

from router.node.visibility import masks_for
from router.scheduling.resources import Device

CUDA = [Device("local", f"CUDA{n}", "gpu", 100, index) for n, index in enumerate((2, 0))]
ROCM = [Device("local", f"ROCm{n}", "gpu", 100, index) for n, index in enumerate((0, 1))]
RAM = Device("local", "RAM", "host", 100)


# B-P8
@pytest.mark.parametrize(
    ("chosen", "present", "expected"),
    [
        ([], [RAM], {}),
        ([CUDA[0]], [*CUDA, RAM], {"CUDA_VISIBLE_DEVICES": "2"}),
        ([*CUDA], [*CUDA, RAM], {"CUDA_VISIBLE_DEVICES": "2,0"}),
        ([RAM], [*CUDA, RAM], {"CUDA_VISIBLE_DEVICES": "-1"}),
        ([ROCM[1]], [*ROCM, RAM], {"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}),
        ([], [*ROCM, RAM], {"ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "-1"}),
    ],
)
def test_masks_show_only_the_chosen_gpus(chosen: list[Device], present: list[Device], expected: dict[str, str]) -> None:
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if present[0] in CUDA else {}
    assert masks_for(chosen, present) == expected | order
