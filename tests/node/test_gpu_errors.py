"""What engines write when a GPU fails."""

from __future__ import annotations

import re

import pytest

from router.node import crash
from router.node.child_log import MAX_LINE_BYTES, MAX_LOG_BYTES
from router.node.gpu_errors import Kind, gpu_error, is_without_gpu

MEMORY, LOST, OTHER = Kind.MEMORY, Kind.LOST, Kind.OTHER
FAULT = "Memory access fault by GPU node-1 (Agent handle: 0x55) on address 0x7f. Reason: Page not present."


# B-S18 B-S13
@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("CUDA error: out of memory", MEMORY, "out of memory"),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9.0 MiB on device 0: cudaMalloc failed: out of memory",
         MEMORY, "out of memory"),
        ("ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 292926534144", MEMORY, "out of memory"),
        ("ROCm error: out of memory", MEMORY, "out of memory"),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED", MEMORY, "out of memory"),
        ("CUDA error: the resource allocation failed", MEMORY, "out of memory"),
        ("CUDA error: the library was not initialized", MEMORY, "out of memory"),
        ("ggml_vulkan: Device memory allocation of size 1879048192 failed.", MEMORY, "out of memory"),
        ("ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory", MEMORY, "out of memory"),
        ("vk::Device::createBuffer: ErrorOutOfHostMemory", MEMORY, "out of memory"),
        ("error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)", MEMORY, "out of memory"),
        ("ggml_metal_buffer_init: error: failed to allocate buffer, size = 9216.00 MiB", MEMORY, "out of memory"),
        ("Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)", MEMORY, "out of memory"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", MEMORY, "out of memory"),
        ("aborting with error : HSA_STATUS_ERROR_OUT_OF_RESOURCES: The runtime failed", MEMORY, "out of memory"),
        ("ggml_opencl: error CL_OUT_OF_RESOURCES", MEMORY, "out of memory"),
        ("CUDA error: uncorrectable ECC error encountered", LOST, "hardware error .*ECC.* replace it"),
        ("CUDA error: uncorrectable NVLink error detected during the execution", LOST, "hardware error"),
        ("CUDA error: unspecified launch failure", LOST, "failed while it computed .*dmesg"),
        ("ROCm error: unspecified launch failure", LOST, "failed while it computed"),
        ("CUDA error: unknown error", LOST, "failed while it computed"),
        ("CUDA error: the launch timed out and was terminated", LOST, "failed while it computed"),
        ("CUDA error: no CUDA-capable device is detected", LOST, "cannot see a GPU"),
        ("ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected", LOST, "cannot see a GPU"),
        ("ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected", LOST, "cannot see a GPU"),
        ("ggml_cuda_init: failed to initialize CUDA: initialization error", LOST, "cannot see a GPU"),
        ("ggml_cuda_init: failed to initialize CUDA: (null)", LOST, "cannot be used"),
        ("CUDA error: invalid device ordinal", LOST, "cannot see a GPU"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", LOST, "another one has it for itself"),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", LOST, "another one has it for itself"),
        ("CUDA error: system not yet initialized", LOST, "fabric manager"),
        ("CUDA error: system has unsupported display driver / cuda driver combination", LOST, "different versions"),
        ("CUDA error: forward compatibility was attempted on non supported HW", LOST, "different versions"),
        ("ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version",
         OTHER, "driver is older than this engine needs"),
        ("CUDA error: the provided PTX was compiled with an unsupported toolchain.", OTHER, "driver is older"),
        ("CUDA error: no kernel image is available for execution on the device", OTHER, "not built for this GPU"),
        ("ROCm error: device kernel image is invalid", OTHER, "not built for this GPU"),
        ("ROCm error: invalid device function", OTHER, "not built for this GPU"),
        ("rocBLAS error: Cannot read /opt/rocm/lib/rocblas/library/TensileLibrary.dat: No such file for gfx1036",
         OTHER, "not built for this GPU"),
        ("hipErrorNoBinaryForGpu: Unable to find code object for all current devices!", OTHER, "not built"),
        ("CUDA error: an illegal memory access was encountered", OTHER, "made an error on the GPU"),
        ("CUDA error: misaligned address", OTHER, "made an error on the GPU"),
        (FAULT, OTHER, "made an error on the GPU"),
        ("HW Exception by GPU node-1 (Agent handle: 0x55) reason :GPU Hang", LOST, "hung, or its driver has reset it"),
        ("terminate called after throwing an instance of 'vk::DeviceLostError'", LOST, "reset it"),
        ("srv  update_slots: decode() failed: vk::Queue::submit: ErrorDeviceLost", LOST, "reset it"),
        ("ggml_vulkan: device lost on Vulkan0", LOST, "reset it"),
        ("Native API failed. Native API returns: 20 (UR_RESULT_ERROR_DEVICE_LOST)", LOST, "reset it"),
        ("Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)", LOST, "reset it"),
        ("kernel: NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.", LOST, "reset it"),
        ("MUSA error: something new", OTHER, "library reports: MUSA error: something new"),
        ("CANN error: E19999", OTHER, "library reports"),
    ],
)  # fmt: skip
def test_the_failure_of_a_gpu_is_read_from_the_log(line: str, kind: Kind, words: str) -> None:
    exit = crash.explain(
        "m", -6, ["loading", line, "/ggml/src/ggml-cuda.cu:96: CUDA error"], is_stopped=False, is_ready=True
    )
    assert re.search(words, exit.sentence), exit.sentence
    assert (exit.out_of_memory, exit.device_lost) == (kind is MEMORY, kind is LOST)


@pytest.mark.parametrize(
    "line",
    [
        "ggml_cuda_host_malloc: failed to allocate 12.00 MiB of pinned memory: out of memory",
        "load_tensors: offloaded 33/33 layers to GPU",
        "ggml_cuda_init: found 2 CUDA devices:",
        "srv  log_server_r: done request: POST /v1/chat/completions 127.0.0.1 200",
        "llama_context: CUDA0 compute buffer size = 304.75 MiB",
    ],
)
def test_what_is_no_failure_explains_no_end(line: str) -> None:
    assert gpu_error([line]) is None


def test_the_first_failure_is_the_cause() -> None:
    log = ["CUDA error: uncorrectable ECC error encountered", "later: out of memory"]
    assert (error := gpu_error(log)) is not None
    assert error.kind is LOST


def test_a_child_without_a_gpu_may_see_none() -> None:
    log = ["ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected", "error: invalid magic"]
    exit = crash.explain("m", 1, log, is_stopped=False, is_ready=False, libraries=())
    assert "is not a GGUF" in exit.sentence
    assert not exit.device_lost


def test_a_child_for_one_vendors_gpu_may_see_none_of_another_vendor() -> None:
    line = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"
    assert gpu_error([line], {"ROCm"}) is None
    assert gpu_error([line], {"CUDA"}) is not None
    assert not is_without_gpu(line, {"ROCm"})
    assert is_without_gpu(line, {"CUDA"})


def test_a_failure_is_found_in_bounded_time() -> None:  # B-T6
    line = "CUDA error: failed to allocate " * (MAX_LINE_BYTES // 31)
    log = [line.replace("error", "errror")] * (MAX_LOG_BYTES // len(line))
    assert "ended with code 1" in crash.explain("m", 1, log, is_stopped=False, is_ready=False).sentence
