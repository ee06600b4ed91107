"""GPUs that are not there, simulated below pynvml: a small C library stands in for the NVIDIA driver's own.

Its state is a folder (see nvml.c). Processes of the tests claim memory there by their pid; when one dies, its memory
comes back late, as on a real GPU.
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
NOT_SUPPORTED, FUNCTION_NOT_FOUND, LOST, HANG = 3, 13, 15, -1  # for `Gpu.status`: NVML_ERROR_... of that number


@dataclass(frozen=True, slots=True)
class Gpu:
    """`others` is what other programs use; dead processes' memory is back `reclaim_ms` after their death is seen."""

    total: int
    reserved: int = 0
    others: int = 0
    reclaim_ms: int = 0
    status: int = 0
    bus: int = 0


class FakeNvml:
    """`variables` are the environment of a process that shall see these GPUs; its children claim by FAKE_NVML."""

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
        """Book bytes by GPU number for a process, as `--hold-bytes` of the fake llama-server does for itself."""
        write(self.folder / "claims" / str(pid), "".join(f"{device} {count}\n" for device, count in held.items()))


def write(path: Path, text: str) -> None:
    """Replace it whole: a reader never sees half of it."""
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(text)
    fresh.replace(path)


def build() -> Path:
    return native.library(Path(__file__).with_name("nvml.c"), SONAME, f"-Wl,-soname,{SONAME}")


@cache
def load() -> None:
    """Let it stand in within this process too, before pynvml looks: a library is found by its soname once it is loaded.
    It answers by the FAKE_NVML of the moment."""
    ctypes.CDLL(str(build()), mode=ctypes.RTLD_GLOBAL)
