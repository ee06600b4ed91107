"""PURE: what engines write when a GPU fails, and what it means: the cause, what to do, and what the router does.

Wording of llama.cpp b11434 (ggml-cuda, ggml-vulkan, ggml-metal, ggml-sycl) and of the libraries below it: CUDA's and
HIP's error strings (`cudaGetErrorString`), cuBLAS and rocBLAS, Vulkan's results, Metal's command buffer errors, Unified
Runtime's results. The engine writes CUDA's strings for AMD and Moore Threads too, as "ROCm error" and "MUSA error".

Called by `crash` for a child that has ended, and by `process` for one that begins to serve without its GPU.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """MEMORY: there was too little memory; a load is tried again when idle models have gone.
    LOST: the GPU or its driver does not work any more; the devices are read anew before the next plan.
    OTHER: neither changes by itself.
    """

    MEMORY = "memory"
    LOST = "lost"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class GpuError:
    kind: Kind
    sentence: str


# The first row that matches a line wins.
_ROWS: tuple[tuple[re.Pattern[str], Kind, str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind, sentence)
    for pattern, kind, sentence in (
        (
            r"out of memory|insufficient memory|OutOf(Device|Host|Pool)?Memory\b|OUT_OF_(DEVICE|HOST|POOL)_MEMORY"
            r"|bad_alloc|(unable|failed) to allocate .*buffer|memory allocation of size \d+ failed"
            r"|failed to allocate [\d.]+ ?([KMG]i?B|bytes)|failed to reserve .*(buffer|memory)"
            r"|CUBLAS_STATUS_(NOT_INITIALIZED|ALLOC_FAILED)|rocblas_status_memory_error|resource allocation failed"
            r"|error: the library was not initialized"  # cuBLAS, when there is no room for its workspace
            r"|CL_OUT_OF_RESOURCES|CL_MEM_OBJECT_ALLOCATION_FAILURE|HSA_STATUS_ERROR_OUT_OF_RESOURCES"
            r"|kIOGPUCommandBufferCallbackErrorOutOfMemory",
            Kind.MEMORY,
            "it ran out of memory",
        ),
        (
            r"uncorrectable (ECC|NVLink) error|contained an uncorrectable",
            Kind.LOST,
            "the GPU has a hardware error ({line}): reset it or restart the machine; if it comes again, replace it",
        ),
        (
            r"DeviceLost|device lost|DEVICE_LOST|GPU is lost|fallen off the bus|NVRM: Xid|GPU Hang|HW Exception by GPU"
            r"|kIOGPUCommandBufferCallbackError(Timeout|Hang|PageFault|InnocentVictim|SubmissionsIgnored|AccessRevoked)",
            Kind.LOST,
            "the GPU was lost: it hung, or its driver has reset it ({line}); the kernel's log (dmesg) says more",
        ),
        (
            r"unspecified launch failure|the launch timed out|CUDA error: unknown error",
            Kind.LOST,
            "the GPU failed while it computed ({line}); the kernel's log (dmesg) says whether it was lost",
        ),
        (
            r"driver version is insufficient|compiled with an unsupported toolchain",
            Kind.OTHER,
            "the GPU driver is older than this engine needs: update the driver, or use an engine for an older one",
        ),
        (
            r"unsupported display driver|forward compatibility was attempted|driver/library version mismatch",
            Kind.LOST,
            "the GPU driver and its libraries have different versions, as after an upgrade: restart the machine",
        ),
        (
            r"no (\w+-capable device is detected|kernel driver)|invalid device ordinal|driver is a stub library"
            r"|failed to initialize (CUDA|ROCm|MUSA): (invalid device|initialization error|unknown error)",
            Kind.LOST,
            "the engine cannot see a GPU that it should use ({line}): it has gone, or its driver is not loaded",
        ),
        (
            r"busy or unavailable",
            Kind.LOST,
            "the GPU takes no more programs: another one has it for itself (compute mode), or it must be reset",
        ),
        (
            r"system not yet initialized",
            Kind.LOST,
            "the GPUs are not ready: the NVIDIA fabric manager does not run (systemctl start nvidia-fabricmanager)",
        ),
        (r"MPS (client|server|daemon)", Kind.LOST, "CUDA's MPS server failed ({line}): start it again"),
        (
            r"no kernel image is available|device kernel image is invalid|invalid device function"
            r"|Unable to find code object|Cannot read .*TensileLibrary|hipErrorNoBinaryForGpu|ErrorIncompatibleDriver",
            Kind.OTHER,
            "this engine was not built for this GPU ({line}): use a build that has its architecture",
        ),
        (
            r"illegal memory access|illegal instruction was|misaligned address|hardware stack error"
            r"|invalid program counter|device-side assert|Memory access fault by GPU|HSA_STATUS_ERROR",
            Kind.OTHER,
            "the engine made an error on the GPU ({line}): a newer engine may help; if not, the GPU may be failing",
        ),
        (
            r"failed to initialize (CUDA|ROCm|MUSA): ",
            Kind.LOST,
            "the GPU cannot be used: {line}",
        ),
        (
            r"(CUDA|ROCm|MUSA|CANN|SYCL|HIP|cuBLAS|rocBLAS) error:? |UR_RESULT_ERROR|kIOGPUCommandBufferCallbackError"
            r"|ggml_metal.*error: command buffer .* failed|vk::.*: Error",
            Kind.OTHER,
            "the GPU's library reports: {line}",
        ),
    )
)
# The engine can do without pinned memory: it warns, and goes on.
_HARMLESS = re.compile(r"pinned memory", re.IGNORECASE)
# The engine goes on without GPUs then.
_INITIALIZED_IN_VAIN = re.compile(r"failed to initialize (CUDA|ROCm|MUSA): .+")
LIBRARIES = frozenset(("CUDA", "ROCm", "MUSA"))
MAX_SHOWN_CHARS = 120


def gpu_error(lines: Iterable[str], libraries: Collection[str] = LIBRARIES) -> GpuError | None:
    """The first failure of a GPU among these lines; None if there is none.

    `libraries` are those of the GPUs that the child was given, such as "CUDA". Of the other libraries it writes at each
    start that they see no GPU: their GPUs are hidden from it.
    """
    for line in lines:
        match = _INITIALIZED_IN_VAIN.search(line)
        if _HARMLESS.search(line) or (match and match[1] not in libraries):
            continue
        for pattern, kind, sentence in _ROWS:
            if pattern.search(line):
                return GpuError(kind, sentence.replace("{line}", line.strip()[:MAX_SHOWN_CHARS]))
    return None


def is_without_gpu(line: str, libraries: Collection[str]) -> bool:
    """Whether this line says that the engine goes on without the GPUs of these libraries, which it should use."""
    match = _INITIALIZED_IN_VAIN.search(line)
    return match is not None and match[1] in libraries
