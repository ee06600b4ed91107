"""NVIDIA GPUs and MIG instances, through NVML. The only module that imports pynvml.

A GPU is known by its UUID: after a reset or a reload of the driver its handle is another one, and its index may be. A
GPU in MIG mode is divided into instances, which are devices of their own: CUDA shows a process one of them at most
(NVIDIA MIG User Guide, "CUDA device enumeration").
"""

from __future__ import annotations

import _ctypes
import contextlib
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pynvml

from router.node.gpus import Gpu
from router.node.kernel_files import read_text
from router.node.visibility import entries_of, index_named
from router.scheduling.resources import UNKNOWN_BYTES, Device
from router.text import valid

log = logging.getLogger("router.devices")

FULL_UUID = re.compile(r"gpu-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
OLD_MIG_NAME = re.compile(r"mig-(gpu-[^/]+)/(\d+)/(\d+)")  # drivers before 470: GPU, GPU instance, compute instance
NVIDIA_VENDOR = "0x10de"
MAX_OPEN_TIMES = 1000  # NVML counts its users in this process

# What NVML's errors mean to a person who can do something about them.
PROBLEMS: Mapping[int, str] = {
    pynvml.NVML_ERROR_UNINITIALIZED: "the NVIDIA driver was reset",
    pynvml.NVML_ERROR_NOT_SUPPORTED: "the NVIDIA driver does not report its memory any more",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user, or this container, may not use it",
    pynvml.NVML_ERROR_NOT_FOUND: "it is not among the GPUs that the NVIDIA driver knows",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    pynvml.NVML_ERROR_TIMEOUT: "it does not answer the NVIDIA driver",
    pynvml.NVML_ERROR_IRQ_ISSUE: "the NVIDIA driver gets no interrupts from it",
    pynvml.NVML_ERROR_GPU_IS_LOST: "it has fallen off the bus, or the NVIDIA driver has lost it otherwise",
    pynvml.NVML_ERROR_RESET_REQUIRED: "it must be reset (nvidia-smi --gpu-reset)",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver and its library have different versions, as after an "
    "upgrade: load the new driver, or restart the machine",
}


def problem_of(error: pynvml.NVMLError) -> str:
    code = error.value
    return PROBLEMS.get(code, f"the NVIDIA driver reports: {error}")


@dataclass(slots=True)
class _Part:
    """A GPU or a MIG instance, as NVML shows it now.

    `index` is the GPU's, by PCI address; `number` is the one by which NVML has it, None for an instance.
    `total` is None if the size cannot be read, 0 if it has no memory of its own: it shares the machine's RAM.
    `problem` says why it cannot be read.
    `name` is what the mask calls it, if nothing else is known of it.
    `instance` are the numbers of a MIG instance: of its GPU instance and of its compute instance.
    """

    index: int = 0
    uuid: str = ""
    total: int | None = None
    handle: object = None
    problem: str = ""
    name: str = ""
    instance: tuple[int, int] | None = None
    number: int | None = None


@dataclass(slots=True)
class _Board:
    """One GPU. `parts` are its MIG instances, or the GPU itself if it is not divided."""

    whole: _Part
    parts: list[_Part] = field(default_factory=list)
    address: tuple[int, int, int] | None = None
    is_divided: bool = False


class NvidiaDriver:
    """Finds the GPUs and MIG instances that CUDA_VISIBLE_DEVICES in `environ` lets through.

    A device's `index` is its GPU's position by PCI address, as CUDA counts under CUDA_DEVICE_ORDER=PCI_BUS_ID. A GPU
    without memory of its own is left out: it shares the machine's RAM. `root` is the folder above `proc` and `sys`.

    Two kinds of loss at the start are told apart. Without NVIDIA's library, or with a driver that is not loaded on a
    machine without an NVIDIA GPU, there are no GPUs. Else they are there, and cannot be read yet.
    """

    def __init__(self, environ: Mapping[str, str], node: str, root: Path) -> None:
        self._mask = environ.get("CUDA_VISIBLE_DEVICES")
        self._node = node
        self._root = root
        self._is_open = False
        self._known: list[Device] = []  # that the driver has shown once, in the order of their names
        self._left_out: set[str] = set()  # UUIDs of GPUs that share the RAM

    def __repr__(self) -> str:
        return f"<NvidiaDriver {' '.join(device.name for device in self._known) or 'no GPUs'}>"

    def find(self) -> list[Gpu]:
        """See `gpus.Driver`. Starts the driver, which may take a second."""
        if self._mask is not None and not _may_name_gpu(self._mask):
            return []
        try:
            self._open()
            boards = list(_boards())
        except pynvml.NVMLError as error:
            if not self._known and not self._is_expected(error):
                is_installed = not isinstance(error, pynvml.NVMLError_LibraryNotFound)
                log.log(logging.INFO if is_installed else logging.DEBUG, "no NVIDIA GPUs: %s", error)
                return []
            return self.unread(problem_of(error))
        if not boards and not self._known and self._count_in_sysfs():
            return self.unread(_UNKNOWN_TO_DRIVER)
        return self._named(boards)

    def unread(self, problem: str) -> list[Gpu]:
        devices = self._known
        if not devices:
            named = entries_of(self._mask or "")
            words = named or ["" for _ in range(max(1, self._count_in_sysfs()))]
            devices = [self._device(n, _Part(index=n, name=_in_nvmls_case(word))) for n, word in enumerate(words)]
        return [Gpu(device, None, problem) for device in devices]

    # The library

    def _open(self) -> None:
        """Raises NVMLError. What was open is closed first: NVML goes on with what it saw when it was opened."""
        if self._is_open:
            with contextlib.suppress(pynvml.NVMLError):
                for _ in range(MAX_OPEN_TIMES):
                    pynvml.nvmlShutdown()
            self._is_open = False
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError_LibRmVersionMismatch:
            # The library that is loaded here may be the old one. The new one is there as soon as its file is.
            _unload_library()
            pynvml.nvmlInit()
        self._is_open = True

    def _is_expected(self, error: pynvml.NVMLError) -> bool:
        """Whether there should be GPUs although the driver cannot be opened."""
        if isinstance(error, pynvml.NVMLError_LibraryNotFound):
            return False
        if not isinstance(error, pynvml.NVMLError_DriverNotLoaded):
            return True
        # HIP obeys CUDA's mask too: on a machine with AMD GPUs it says nothing of NVIDIA's.
        is_amd = any(self._root.glob("sys/class/drm/card*/device/mem_info_vram_total"))
        return (self._mask is not None and not is_amd) or self._count_in_sysfs() > 0

    def _count_in_sysfs(self) -> int:
        """How many NVIDIA GPUs the kernel sees, whether their driver is loaded or not."""
        count = 0
        for device in self._root.glob("sys/bus/pci/devices/*"):
            with contextlib.suppress(OSError, ValueError):
                is_display = read_text(device / "class").startswith("0x03")
                count += is_display and read_text(device / "vendor") == NVIDIA_VENDOR
        return count

    # Names

    def _named(self, boards: Sequence[_Board]) -> list[Gpu]:
        """Devices with the names that they have had, and new names for new ones."""
        visible = self._visible(boards)
        claimed = {device.uuid for device in self._known if device.uuid}
        fresh = [part for part in visible if part.uuid not in claimed]
        pairs: list[tuple[Device | None, _Part]] = []
        for device in self._known:
            part = self._found_again(device, boards, fresh)
            fresh = [other for other in fresh if other is not part]
            pairs.append((device, part))
        # A mask names all that there will be.
        # Nor is a GPU new that does not say which one it is.
        pairs += [(None, part) for part in fresh if not self._known or (self._mask is None and part.uuid)]
        number = max((_number(device) for device in self._known), default=-1)
        use_uuid = any(board.is_divided or board.whole.problem or not board.whole.uuid for board in boards)
        gpus: list[Gpu] = []
        for before, part in pairs:
            if before is None:
                if part.uuid in self._left_out:
                    continue
                number += 1
                if part.total == 0:
                    self._left_out.add(part.uuid)
                    continue
                if part.problem:
                    name = part.uuid or part.name or "whose name is not known"
                    log.warning("NVIDIA GPU %d is left out until %s can be read: %s", part.index, name, part.problem)
            elif part.total == 0:
                part.problem = PROBLEMS[pynvml.NVML_ERROR_NOT_SUPPORTED]
            device = self._device(_number(before) if before else number, part, before, use_uuid=use_uuid)
            can_be_asked = part.problem not in (_NO_INSTANCE, _NOW_DIVIDED)
            memory = _NvmlMemory(part.handle, device.uuid, part.number, part.problem) if can_be_asked else None
            gpus.append(Gpu(device, memory, part.problem))
        self._known = [gpu.device for gpu in gpus]
        return gpus

    def _found_again(self, device: Device, boards: Sequence[_Board], fresh: Sequence[_Part]) -> _Part:
        """What this device is now. One that was never read may be known by what the mask calls it, or by its index."""
        parts = [part for board in boards for part in board.parts]
        is_known = device.total != UNKNOWN_BYTES
        for part in parts:
            if device.uuid and part.uuid == device.uuid:
                return part
        for part in fresh:
            if device.uuid and not part.uuid and not part.name and part.index == device.index:
                return part  # it is counted, and does not say any more which one it is
        if not is_known:
            named = _resolved(device.uuid.lower(), boards) if device.uuid else None
            for part in [part for part in (named or fresh) if part in fresh]:
                if named or part.index == device.index:
                    return part
        is_divided = any(board.is_divided and board.whole.uuid == device.uuid for board in boards)
        return _Part(device.index, device.uuid, problem=_NOW_DIVIDED if is_divided else _UNKNOWN_TO_DRIVER)

    def _device(self, number: int, part: _Part, before: Device | None = None, *, use_uuid: bool = False) -> Device:
        total = part.total or (before.total if before else UNKNOWN_BYTES)
        uuid = part.uuid or part.name or (before.uuid if before else "")
        is_alone = part.instance is not None or uuid.startswith("MIG-")
        word = uuid if is_alone or (use_uuid and part.uuid) else ""
        label = before.label if before and before.label else _product(part.handle)
        return Device(self._node, f"CUDA{number}", "gpu", total, part.index, uuid, is_alone, word, label)

    def _visible(self, boards: Sequence[_Board]) -> list[_Part]:
        """What the mask lets through, in its order. What it names and the driver does not know is among it."""
        if self._mask is None:
            return [part for board in boards for part in board.parts]
        parts: list[_Part] = []
        for entry in entries_of(self._mask):
            found = _resolved(entry, boards)
            if found is None:
                is_certain = entry.startswith("mig-") or FULL_UUID.fullmatch(entry)
                if not is_certain:
                    text = "the visibility mask %r ends at %r, which names no GPU that is there, or several"
                    log.warning(text, self._mask, entry)
                    parts += [_Part(problem=_UNKNOWN_TO_DRIVER, name=entry)] if entry.isdecimal() else []
                    break
                found = [_Part(problem=_UNKNOWN_TO_DRIVER, name=_in_nvmls_case(entry))]
            parts += [part for part in found if not any(part is other for other in parts)]
        return parts


_UNKNOWN_TO_DRIVER = PROBLEMS[pynvml.NVML_ERROR_NOT_FOUND]
_NO_INSTANCE = "it is in MIG mode and has no instance: create one (nvidia-smi mig -cgi), or turn MIG mode off"
_NOW_DIVIDED = "it was put into MIG mode: restart the router to use its instances"


def _number(device: Device) -> int:
    return int(device.name.removeprefix("CUDA"))


def _in_nvmls_case(entry: str) -> str:
    return entry.replace("mig-", "MIG-").replace("gpu-", "GPU-")


def _may_name_gpu(mask: str) -> bool:
    entries = entries_of(mask)
    return bool(entries) and (entries[0].isdecimal() or entries[0].startswith(("gpu-", "mig-")))


def _product(handle: object) -> str:
    """What the device is sold as; empty if the driver does not tell."""
    if handle is None:
        return ""
    try:
        return valid(pynvml.nvmlDeviceGetName(handle))
    except (pynvml.NVMLError, UnicodeDecodeError):
        return ""


def _resolved(entry: str, boards: Sequence[_Board]) -> list[_Part] | None:
    """What an entry of a mask names: one MIG instance, or a GPU with all its instances. None if that is not clear."""
    if not entry.startswith("mig-"):
        index = index_named(entry, [board.whole.uuid for board in boards])
        return None if index is None else boards[index].parts
    parts = [(board, part) for board in boards for part in board.parts if part.instance]
    if old := OLD_MIG_NAME.fullmatch(entry):
        numbers = int(old[2]), int(old[3])
        found = [p for b, p in parts if b.whole.uuid.lower().startswith(old[1]) and p.instance == numbers]
    else:
        found = [part for _, part in parts if part.uuid.lower().startswith(entry)]
    return found if len(found) == 1 else None


# What NVML shows


def _boards() -> Iterator[_Board]:
    """All GPUs by PCI address, with those that cannot be read. Raises NVMLError if the driver as a whole fails."""
    boards = [_board(number) for number in range(pynvml.nvmlDeviceGetCount())]
    # NVML counts by PCI address too. So one without an address stays behind the one before it.
    placed = sorted((board for board in boards if board.address), key=lambda board: board.address or (0, 0, 0))
    for number, board in enumerate(boards):
        if board.address is None:
            placed.insert(number, board)
    for index, board in enumerate(placed):
        board.whole.index = index
        for part in board.parts:
            part.index = index
        yield board


def _board(number: int) -> _Board:
    board = _Board(_Part(index=number, number=number))
    whole = board.whole
    board.parts = [whole]
    try:
        whole.handle = handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        whole.uuid = pynvml.nvmlDeviceGetUUID(handle)
        pci = pynvml.nvmlDeviceGetPciInfo(handle)
        board.address = pci.domain, pci.bus, pci.device
        board.is_divided = _is_divided(handle)
        if board.is_divided:
            board.parts = list(_instances(handle)) or [replace(whole, handle=None, problem=_NO_INSTANCE)]
        else:
            whole.total = _capacity(handle)
    except pynvml.NVMLError as error:
        whole.problem = problem_of(error)
    return board


def _is_divided(handle: object) -> bool:
    """Whether MIG mode is on. Raises NVMLError."""
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _instances(handle: object) -> Iterator[_Part]:
    """The MIG instances of one GPU that this process may use. Raises NVMLError."""
    for place in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = _Part(handle=pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place))
        except (pynvml.NVMLError_NotFound, pynvml.NVMLError_InvalidArgument, pynvml.NVMLError_NoPermission):
            continue  # no instance there, or one of another container
        try:
            gpu_instance = pynvml.nvmlDeviceGetGpuInstanceId(part.handle)
            part.instance = gpu_instance, pynvml.nvmlDeviceGetComputeInstanceId(part.handle)
            part.uuid = pynvml.nvmlDeviceGetUUID(part.handle)
            part.total = _capacity(part.handle)
        except pynvml.NVMLError as error:
            part.problem = problem_of(error)
        yield part


def _capacity(handle: object) -> int:
    """Bytes that programs can have, which is less than the board has; 0 if it has no memory of its own."""
    try:
        info = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return int(info.total - info.reserved)
    except pynvml.NVMLError_NotSupported:
        return 0
    except pynvml.NVMLError_FunctionNotFound:  # drivers before 510 do not report what they reserve
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)


def _unload_library() -> None:
    """Let pynvml load the library's file again. Nothing of it may be in use."""
    library, pynvml.nvmlLib = pynvml.nvmlLib, None
    getattr(pynvml, "_nvmlGetFunctionPointer_cache", {}).clear()
    if library is not None and hasattr(_ctypes, "dlclose"):
        with contextlib.suppress(OSError):
            _ctypes.dlclose(library._handle)


@dataclass(slots=True)
class _NvmlMemory:
    """`handle` is None for a GPU that had none when it was looked for; then `problem` says why."""

    handle: object
    uuid: str
    number: int | None
    problem: str

    def free(self) -> int:
        try:
            return self._free()
        except pynvml.NVMLError as error:
            # A GPU that was reset may have another handle. If all of NVML has to be opened anew, this fails too.
            try:
                self.handle = self._find()
                return self._free()
            except pynvml.NVMLError:
                is_unknown = isinstance(error, pynvml.NVMLError_NotFound)
                raise OSError((is_unknown and self.problem) or problem_of(error)) from error

    def _free(self) -> int:
        self.handle = self.handle or self._find()
        return int(pynvml.nvmlDeviceGetMemoryInfo(self.handle).free)

    def _find(self) -> object:
        if self.uuid or self.number is None:
            return pynvml.nvmlDeviceGetHandleByUUID(self.uuid)
        return pynvml.nvmlDeviceGetHandleByIndex(self.number)

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
