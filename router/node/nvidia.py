"""NVIDIA GPUs, through NVML. The only module that imports pynvml."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pynvml

from router.node.gpus import Gpu
from router.node.visibility import visible_indices
from router.scheduling.resources import Device

log = logging.getLogger("router.devices")


def nvidia_gpus(environ: Mapping[str, str], node: str) -> list[Gpu]:
    """The GPUs that the masks in `environ` let through. Starts the driver, which may take a second.

    A device's `index` is its position by PCI address, as CUDA counts under CUDA_DEVICE_ORDER=PCI_BUS_ID. A GPU without
    memory of its own is left out: it shares the machine's RAM.
    """
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        log.debug("no NVIDIA GPUs: %s", error)
        return []
    boards = []
    for number in range(count):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            pci = pynvml.nvmlDeviceGetPciInfo(handle)
            address = pci.domain, pci.bus, pci.device
            boards.append((address, pynvml.nvmlDeviceGetUUID(handle), _capacity(handle), handle))
        except pynvml.NVMLError as error:
            log.warning("NVIDIA GPU %d is left out: %s", number, error)
    boards.sort(key=lambda board: board[0])
    visible = visible_indices(environ.get("CUDA_VISIBLE_DEVICES"), [uuid for _, uuid, _, _ in boards])
    gpus = []
    for position, index in enumerate(visible):
        _, uuid, total, handle = boards[index]
        if total:
            gpus.append(Gpu(Device(node, f"CUDA{position}", "gpu", total, index, uuid), _NvmlMemory(handle)))
    return gpus


def _capacity(handle: object) -> int:
    """Bytes that programs can have, which is less than the board has; 0 if it has no memory of its own."""
    try:
        info = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return int(info.total - info.reserved)
    except pynvml.NVMLError_NotSupported:
        return 0
    except pynvml.NVMLError_FunctionNotFound:  # drivers before 510 do not report what they reserve
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)


@dataclass(frozen=True, slots=True)
class _NvmlMemory:
    handle: object

    def free(self) -> int:
        try:
            return int(pynvml.nvmlDeviceGetMemoryInfo(self.handle).free)
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    def used(self, pids: Collection[int]) -> int:
        # In a container the driver may report the host's process numbers. Then no process is found, and this is 0.
        try:
            running = [
                *pynvml.nvmlDeviceGetComputeRunningProcesses(self.handle),
                *pynvml.nvmlDeviceGetGraphicsRunningProcesses(self.handle),
            ]
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error
        # A process that computes and draws is in both lists, with the same figure: it counts once.
        found = {process.pid: process.usedGpuMemory or 0 for process in running if process.pid in pids}
        return sum(found.values())
