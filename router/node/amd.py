"""AMD GPUs, through sysfs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from router.node.gpus import Gpu
from router.node.kernel_files import read_text
from router.node.visibility import visible_indices
from router.scheduling.resources import UNKNOWN_BYTES, Device
from router.text import valid

log = logging.getLogger("router.devices")

# A BIOS sets less VRAM than this aside for an integrated GPU. Such a GPU uses the machine's RAM.
MIN_VRAM_BYTES = 2048 * 2**20

GONE = "its files in sysfs are gone: its driver has left it, or it has fallen off the bus"


@dataclass(frozen=True, slots=True)
class _Board:
    """One GPU. `card` is its folder, by PCI address: its identity. `total` is 0 if it cannot be read."""

    card: Path
    uuid: str
    total: int
    problem: str = ""


class AmdDriver:
    """Finds the GPUs that the masks in `environ` let through. `root` is the folder above `sys`.

    A device's `index` is its position by PCI address, as ROCR_VISIBLE_DEVICES counts. HIP counts within what that mask
    lets through, and reads CUDA's mask if it has none of its own (ROCm documentation, GPU isolation).
    """

    def __init__(self, environ: Mapping[str, str], node: str, root: Path) -> None:
        self._outer_mask = environ.get("ROCR_VISIBLE_DEVICES")
        self._mask = environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES"))
        self._node = node
        self._root = root
        self._known: dict[Path, Device] = {}

    def __repr__(self) -> str:
        return f"<AmdDriver {' '.join(device.name for device in self._known.values()) or 'no GPUs'}>"

    def find(self) -> list[Gpu]:
        """See `gpus.Driver`. The GPUs that were there the first time are all that there will be."""
        boards = {board.card: board for board in self._boards()}
        if not self._known:
            return self._first(list(boards.values()))
        is_one_gone = not self._known.keys() <= boards.keys() or any(b.problem for b in boards.values())
        positions = {card: index for index, card in enumerate(boards)}
        gpus = []
        for card, before in self._known.items():
            board = boards.get(card) or _Board(card, before.uuid, 0, GONE)
            total = board.total or before.total
            # While one is gone, nobody knows how ROCm counts the others: they are named by their UUIDs.
            word = before.uuid if is_one_gone else ""
            index = positions.get(card, before.index)
            device = Device(self._node, before.name, "gpu", total, index, before.uuid, mask=word, label=before.label)
            gpus.append(self._gpu(device, board))
        return gpus

    def unread(self, problem: str) -> list[Gpu]:
        return [Gpu(device, None, problem) for device in self._known.values()]

    def _first(self, boards: list[_Board]) -> list[Gpu]:
        uuids = [board.uuid for board in boards]
        outer = visible_indices(self._outer_mask, uuids)
        visible = [outer[position] for position in visible_indices(self._mask, [uuids[index] for index in outer])]
        gpus = []
        for position, index in enumerate(visible):
            board = boards[index]
            if board.problem:
                log.warning("AMD GPU %s is left out until it can be read: %s", board.card.name, board.problem)
            elif board.total < MIN_VRAM_BYTES:
                continue
            total = board.total or UNKNOWN_BYTES
            label = _product(board.card)
            device = Device(self._node, f"ROCm{position}", "gpu", total, index, board.uuid, label=label)
            self._known[board.card] = device
            gpus.append(self._gpu(device, board))
        return gpus

    def _gpu(self, device: Device, board: _Board) -> Gpu:
        memory = None if board.problem else _SysfsMemory(board.card / "mem_info_vram_used", board.total)
        return Gpu(device, memory, board.problem)

    def _boards(self) -> list[_Board]:
        cards = {card.resolve() for card in self._root.glob("sys/class/drm/card*/device")}
        boards = []
        for card in sorted(cards, key=lambda card: card.name):
            if (card / "mem_info_vram_total").exists():
                try:
                    uuid = f"GPU-{read_text(card / 'unique_id')}" if (card / "unique_id").exists() else ""
                    boards.append(_Board(card, uuid, int(read_text(card / "mem_info_vram_total"))))
                except (OSError, ValueError) as error:
                    boards.append(_Board(card, "", 0, _problem_of(error)))
        return boards


def _product(card: Path) -> str:
    """What the GPU is sold as, which few drivers tell."""
    try:
        return valid(read_text(card / "product_name"))
    except (OSError, ValueError):
        return ""


def _problem_of(error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"its files in sysfs cannot be read ({reason}): its driver may have been reset or unloaded"


@dataclass(frozen=True, slots=True)
class _SysfsMemory:
    used_file: Path
    total: int

    def free(self) -> int:
        try:
            return self.total - int(read_text(self.used_file))
        except (OSError, ValueError) as error:
            raise OSError(_problem_of(error)) from error

    def used(self, pids: Collection[int]) -> int:
        return 0  # sysfs does not say which process holds what
