"""Visibility masks: environment variables that hide GPUs from a process.

They are used in both directions. The router obeys the masks in its own environment (`nvidia` and `amd` read them), and
it hides from each child all GPUs that were not chosen for it (`masks_for`, called by `local`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from router.scheduling.resources import Device

log = logging.getLogger("router.devices")

# An empty value hides every GPU.
MASK_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def entries_of(mask: str) -> list[str]:
    """The entries of a mask, in lower case. Empty entries are skipped."""
    return [*filter(None, (word.strip().lower() for word in mask.split(",")))]


def index_named(entry: str, uuids: Sequence[str]) -> int | None:
    """The index of the GPU that an entry names: by its index, or by the unique start of its UUID. None if it names no
    GPU, or several. `uuids` are those of all GPUs, in the order of their indices."""
    if entry.isdecimal():
        return int(entry) if int(entry) < len(uuids) else None
    found = [index for index, uuid in enumerate(uuids) if uuid.lower().startswith(entry)]
    return found[0] if len(found) == 1 else None


def visible_indices(mask: str | None, uuids: Sequence[str]) -> list[int]:
    """The indices of the GPUs that a mask lets through, in its order; all if there is no mask.

    The rules are CUDA's (Programming Guide, environment variables): the first entry that names no device ends the list.
    """
    if mask is None:
        return [*range(len(uuids))]
    chosen: list[int] = []
    for entry in entries_of(mask):
        index = index_named(entry, uuids)
        if index is None:
            log.info("the visibility mask %r ends before %r, which names no GPU, or several", mask, entry)
            break
        if index not in chosen:
            chosen.append(index)
    return chosen


def masks_for(chosen: Sequence[Device], present: Sequence[Device]) -> dict[str, str]:
    """The variables that hide all GPUs but the chosen ones from a child. Empty on a machine without GPUs.

    `present` are all devices of the machine, as they are now. `-1` hides every GPU.
    """
    now = {device.key: device for device in present}
    chosen = [now.get(device.key, device) for device in chosen]
    env: dict[str, str] = {}
    if any(device.name.startswith("CUDA") for device in (*present, *chosen)):
        words = _words([device for device in chosen if device.name.startswith("CUDA")])
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(words) or "-1"}
    if any(device.name.startswith("ROCm") for device in (*present, *chosen)):
        words = _words([device for device in chosen if device.name.startswith("ROCm")])
        # HIP counts within what ROCR lets through. It is set too, because otherwise HIP would obey CUDA's mask.
        env["ROCR_VISIBLE_DEVICES"] = ",".join(words) or "0"
        env["HIP_VISIBLE_DEVICES"] = ",".join(map(str, range(len(words)))) or "-1"
    return env


def _words(devices: Sequence[Device]) -> list[str]:
    """All by index, or all by UUID if the index of one of them is not certain."""
    if any(device.mask for device in devices):
        return [device.mask or device.uuid or str(device.index) for device in devices]
    return [str(device.index) for device in devices]
