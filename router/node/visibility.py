"""Visibility masks: environment variables that hide GPUs from a process.

They are used in both directions. The router obeys the masks in its own environment (`visible_indices`, called by
`nvidia` and `amd`), and it hides from each child all GPUs that were not chosen for it (`masks_for`, called by `local`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from router.scheduling.resources import Device

log = logging.getLogger("router.devices")

# An empty value hides every GPU.
MASK_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def visible_indices(mask: str | None, uuids: Sequence[str]) -> list[int]:
    """The indices of the GPUs that a mask lets through, in its order; all if there is no mask.

    `uuids` are those of all GPUs, in the order of their indices. The rules are CUDA's (Programming Guide, environment
    variables): an entry is an index or the unique start of a UUID, and the first entry that names no device ends the
    list. Empty entries are skipped.
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
            log.info("the visibility mask %r ends before %r, which names no GPU, or several", mask, entry)
            break
        chosen += [index for index in found if index not in chosen]
    return chosen


def masks_for(chosen: Sequence[Device], present: Sequence[Device]) -> dict[str, str]:
    """The variables that hide all GPUs but the chosen ones from a child. Empty on a machine without GPUs.

    `present` are all devices of the machine. `-1` hides every GPU.
    """
    env: dict[str, str] = {}
    if any(device.name.startswith("CUDA") for device in present):
        indices = [str(device.index) for device in chosen if device.name.startswith("CUDA")]
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(indices) or "-1"}
    if any(device.name.startswith("ROCm") for device in present):
        indices = [str(device.index) for device in chosen if device.name.startswith("ROCm")]
        # HIP counts within what ROCR lets through. It is set too, because otherwise HIP would obey CUDA's mask.
        env["ROCR_VISIBLE_DEVICES"] = ",".join(indices) or "0"
        env["HIP_VISIBLE_DEVICES"] = ",".join(map(str, range(len(indices)))) or "-1"
    return env
