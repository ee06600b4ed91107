"""Simulated GPUs: a small C library takes the place of the NVIDIA driver's own, below pynvml.

Its state is a folder (see nvml.c). Processes of the tests claim memory there by their pid. When a process dies, its
memory comes back late, as on a real GPU.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tests import native

SONAME = "libnvidia-ml.so.1"
NOT_SUPPORTED, FUNCTION_NOT_FOUND, LOST, HANG = 3, 13, 15, -1  # values of `Gpu.status`: NVML_ERROR_... numbers
UNINITIALIZED, NO_PERMISSION, NOT_LOADED, RESET_REQUIRED, MISMATCH, UNKNOWN = 1, 4, 9, 16, 18, 999


@dataclass(frozen=True, slots=True)
class Gpu:
    """One simulated GPU; sizes in bytes.

    `others` is what other programs use.
    `reclaim_ms`: the memory of a dead process is back so long after its death is seen.
    `status` is an error number that every call returns, or HANG.
    `gone`: 1: it is not counted any more; 2: it is counted, and has no handle.
    """

    total: int
    reserved: int = 0
    others: int = 0
    reclaim_ms: int = 0
    status: int = 0
    bus: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True)
class Mig:
    """One simulated MIG instance: its numbers, its size in bytes and what other programs use of it, and a status as
    `Gpu` has one."""

    gpu_instance: int
    compute_instance: int
    total: int
    others: int = 0
    status: int = 0
    uuid: str = ""


class FakeNvml:
    """Simulated GPUs. A process with `variables` in its environment sees them."""

    def __init__(self, folder: Path, *gpus: Gpu) -> None:
        self.folder = folder
        for name in ("claims", "ended"):
            (folder / name).mkdir(parents=True)
        self.gpus = [replace(gpu, bus=gpu.bus or index + 1) for index, gpu in enumerate(gpus)]
        for index in range(len(gpus)):
            self.change(index)

    @property
    def variables(self) -> dict[str, str]:
        paths = [str(build().parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {"FAKE_NVML": str(self.folder), "LD_LIBRARY_PATH": os.pathsep.join(paths)}

    def change(self, index: int, **values: Any) -> None:
        self.gpus[index] = replace(self.gpus[index], **values)
        write(self.folder / f"gpu{index}", " ".join(map(str, astuple(self.gpus[index]))))

    def divide(self, index: int, *parts: Mig) -> None:
        """Put a GPU in MIG mode, with these instances."""
        named = [part if part.uuid else replace(part, uuid=mig_uuid(index, place)) for place, part in enumerate(parts)]
        write(self.folder / f"mig{index}", "".join(" ".join(map(str, astuple(part))) + "\n" for part in named))

    def driver(self, status: int = 0, *, generation: int = 0, version: int = 0) -> None:
        """`status` is what all calls return, or HANG. With another `generation` the driver was reset: what is open must
        be opened anew. With another `version` only a library that is loaded from then on fits."""
        write(self.folder / "driver", f"{status} {generation} {version}")

    def claim(self, pid: int, held: Mapping[int, int]) -> None:
        """Let a process hold bytes, by GPU number. The fake llama-server does it for itself with `--hold-bytes`."""
        write(self.folder / "claims" / str(pid), "".join(f"{device} {count}\n" for device, count in held.items()))


def gpu_uuid(index: int) -> str:
    return f"GPU-{index:08}-0000-0000-0000-000000000000"


def mig_uuid(index: int, place: int) -> str:
    return f"MIG-{index:08}-0000-0000-0000-{place:012}"


def write(path: Path, text: str) -> None:
    """Replace the file in one step: a reader never sees half of it."""
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(text)
    fresh.replace(path)


def build() -> Path:
    return native.library(Path(__file__).with_name("nvml.c"), SONAME, f"-Wl,-soname,{SONAME}")


@cache
def load() -> None:
    """Use the library in this process too. Call it before pynvml looks for the driver: the linker finds a library that
    is loaded already by its soname. The library reads FAKE_NVML at every call."""
    ctypes.CDLL(str(build()), mode=ctypes.RTLD_GLOBAL)


def close_all() -> None:
    """Close it in this process as often as it was opened, for a driver that is another one."""
    library = ctypes.CDLL(str(build()))
    while not library.nvmlShutdown():
        pass
