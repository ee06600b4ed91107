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


@dataclass(frozen=True, slots=True)
class Gpu:
    """One simulated GPU; sizes in bytes.

    `others` is what other programs use.
    `reclaim_ms`: the memory of a dead process is back so long after its death is seen.
    `status` is an error number that every call returns, or HANG.
    """

    total: int
    reserved: int = 0
    others: int = 0
    reclaim_ms: int = 0
    status: int = 0
    bus: int = 0


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

    def claim(self, pid: int, held: Mapping[int, int]) -> None:
        """Let a process hold bytes, by GPU number. The fake llama-server does it for itself with `--hold-bytes`."""
        write(self.folder / "claims" / str(pid), "".join(f"{device} {count}\n" for device, count in held.items()))


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
