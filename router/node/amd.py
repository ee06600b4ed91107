"""AMD GPUs, through sysfs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from router.node.gpus import Gpu
from router.node.kernel_files import read_text
from router.node.visibility import visible_indices
from router.scheduling.resources import Device

log = logging.getLogger("router.devices")

# A BIOS sets less VRAM than this aside for an integrated GPU. Such a GPU uses the machine's RAM.
MIN_VRAM_BYTES = 2048 * 2**20


def amd_gpus(environ: Mapping[str, str], node: str, root: Path) -> list[Gpu]:
    """The GPUs that the masks in `environ` let through. `root` is the folder above `sys`.

    A device's `index` is its position by PCI address, as ROCR_VISIBLE_DEVICES counts. HIP counts within what that mask
    lets through, and reads CUDA's mask if it has none of its own (ROCm documentation, GPU isolation).
    """
    cards = {card.resolve() for card in root.glob("sys/class/drm/card*/device")}
    boards: list[tuple[Path, str, int]] = []
    for card in sorted(cards, key=lambda card: card.name):
        if (card / "mem_info_vram_total").exists():
            try:
                uuid = f"GPU-{read_text(card / 'unique_id')}" if (card / "unique_id").exists() else ""
                boards.append((card, uuid, int(read_text(card / "mem_info_vram_total"))))
            except (OSError, ValueError) as error:
                log.warning("AMD GPU %s is left out: %s", card.name, error)
    uuids = [uuid for _, uuid, _ in boards]
    outer = visible_indices(environ.get("ROCR_VISIBLE_DEVICES"), uuids)
    mask = environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES"))
    visible = [outer[position] for position in visible_indices(mask, [uuids[index] for index in outer])]
    gpus = []
    for position, index in enumerate(visible):
        card, uuid, total = boards[index]
        if total >= MIN_VRAM_BYTES:
            memory = _SysfsMemory(card / "mem_info_vram_used", total)
            gpus.append(Gpu(Device(node, f"ROCm{position}", "gpu", total, index, uuid), memory))
    return gpus


@dataclass(frozen=True, slots=True)
class _SysfsMemory:
    used_file: Path
    total: int

    def free(self) -> int:
        return self.total - int(read_text(self.used_file))

    def used(self, pids: Collection[int]) -> int:
        return 0  # sysfs does not say which process holds what
