"""The libraries that an engine needs: where more of them may lie, and which package has one that is missing.

A build for CUDA needs libraries that often are in no place where the system looks: those of a pip package
(`nvidia/*/lib`), or of a toolkit (`/usr/local/cuda/lib64`). Such a folder goes behind all others, and only if it has a
library that is missing without it. Called by `discovery`; `obstacles` and `node.crash` name packages.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from router.engine import programs

LIBRARY_PATH = {"darwin": "DYLD_LIBRARY_PATH", "win32": "PATH"}.get(sys.platform, "LD_LIBRARY_PATH")
TOOLKITS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/*/lib", "/opt/cuda/lib64", "/opt/rocm/lib")
# Backends that the program opens as it runs: if one lacks a library, the program starts, and sees no GPU.
BACKENDS = ("libggml-cuda.so*", "libggml-hip.so*", "libggml-vulkan.so*", "libggml-sycl.so*")
LDD_TIMEOUT_S = 10.0
MAX_ROUNDS = 3  # a library that was found may need another one

# Libraries, and what to install for them: Debian's name first, then another source.
PACKAGES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (r"libcuda\.so", "it comes with NVIDIA's driver: install the driver, or start the container with --gpus all"),
        (r"libcudart\.so\.(\d+)", "`pip install nvidia-cuda-runtime-cu{0}`, or the CUDA {0} toolkit"),
        (r"libcublas(Lt)?\.so\.(\d+)", "`pip install nvidia-cublas-cu{1}`, or the CUDA {1} toolkit"),
        (r"libnccl\.so", "`apt install libnccl2`, or `pip install nvidia-nccl-cu12`"),
        (r"libnvrtc\.so\.(\d+)", "`pip install nvidia-cuda-nvrtc-cu{0}`, or the CUDA {0} toolkit"),
        (
            r"lib(cudnn|cufft|curand|cusolver|cusparse|cupti|nvJitLink|nvjpeg|nvToolsExt|npp)\w*\.so",
            "it belongs to the CUDA toolkit of the version that the engine was built with",
        ),
        (r"lib(amdhip64|hipblas|hipblaslt|rocblas|rocsolver|hsa-runtime64)\.so", "it belongs to ROCm: install ROCm"),
        (r"lib(sycl|ze_loader|mkl_\w+|dnnl|tbb|svml|imf|intlc)\.so", "it belongs to Intel's oneAPI: install oneAPI"),
        (r"libmusa\w*\.so", "it belongs to the MUSA toolkit"),
        (r"libOpenCL\.so", "`apt install ocl-icd-libopencl1`"),
        (r"libvulkan\.so", "`apt install libvulkan1`"),
        (r"libgomp\.so", "`apt install libgomp1`"),
        (r"libomp\.so\.5", "`apt install libomp5`"),
        (r"libomp\.so|libomp\.dylib", "`apt install libomp-dev`, or `brew install libomp`"),
        (r"libiomp5\.so", "`pip install intel-openmp`"),
        (r"libcurl\.so\.4", "`apt install libcurl4`"),
        (r"libcurl-gnutls\.so", "`apt install libcurl3-gnutls`"),
        (r"lib(ssl|crypto)\.so\.3", "`apt install libssl3`"),
        (r"lib(ssl|crypto)\.so\.1\.1", "it is OpenSSL 1.1, which newer systems lack: take a build for this system"),
        (r"libopenblas\.so", "`apt install libopenblas0`"),
        (r"libblis\w*\.so", "`apt install libblis4`"),
        (r"libstdc\+\+\.so", "`apt install libstdc++6`"),
        (r"libgcc_s\.so", "`apt install libgcc-s1`"),
        (r"libatomic\.so", "`apt install libatomic1`"),
        (r"libnuma\.so", "`apt install libnuma1`"),
        (r"libz\.so", "`apt install zlib1g`"),
        (r"libzstd\.so", "`apt install libzstd1`"),
        (r"libibverbs\.so", "`apt install libibverbs1`"),
        (r"libc\.musl|ld-musl", "the engine was built for musl (Alpine): take a build for glibc"),
        (
            r"lib(llama|ggml|mtmd)[\w.-]*\.(so|dylib)",
            "it is the engine's own: keep all files of a build together, or name the program in its own folder",
        ),
    )
)


def advice(library: str) -> str:
    """What to do about a library that is missing, as the end of a sentence; empty if its package is not known."""
    name = library.rpartition("/")[2]
    for pattern, words in PACKAGES:
        if found := pattern.match(name):
            return words.format(*(group or "" for group in found.groups()))
    return ""


def path_for(program: Path, environ: Mapping[str, str]) -> str:
    """The value of LIBRARY_PATH for a program: its own folder, what the user has set, and folders of pip and of CUDA if
    they have a library that is missing otherwise. Blocks for some ms, on machines with such folders alone."""
    # Builds have their libraries in the program's own folder. Often a symbolic link leads to the program.
    folders = [str(program.resolve().parent), environ.get(LIBRARY_PATH, "")]
    path = os.pathsep.join(folder for folder in folders if folder)
    spare = [folder for folder in further_folders() if folder not in path.split(os.pathsep)]
    for _ in range(MAX_ROUNDS if spare else 0):
        missing = missing_of(program, path)
        useful = [folder for folder in spare if any(os.path.exists(os.path.join(folder, name)) for name in missing)]
        if not useful:
            break
        path = os.pathsep.join((path, *useful))
        spare = [folder for folder in spare if folder not in useful]
    return path


def further_folders(sources: Iterable[str] | None = None, toolkits: Sequence[str] = TOOLKITS) -> list[str]:
    """Folders of libraries for GPUs where the system may not look, in the order in which they are tried. `sources` are
    where pip installs: of the folders of `sys.path` none else, the present folder least of all."""
    if sources is None:
        sources = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    if not sys.platform.startswith("linux"):
        return []
    found = [*_matching(sources, "nvidia/*/lib"), *_matching(("/",), *(toolkit.lstrip("/") for toolkit in toolkits))]
    return list(dict.fromkeys(str(folder) for folder in found))


def missing_of(program: Path, path: str) -> list[str]:
    """The names of the libraries that a program and its backends do not find with this library path."""
    ldd = shutil.which("ldd")
    if not ldd:
        return []
    files = [program, *(backend for pattern in BACKENDS for backend in program.resolve().parent.glob(pattern))]
    try:
        result = programs.run([ldd, *map(str, files)], {LIBRARY_PATH: path, "LC_ALL": "C"}, LDD_TIMEOUT_S)
    except (OSError, programs.TimedOut):
        return []
    return list(dict.fromkeys(re.findall(r"^\s*(\S+) => not found", result.stdout, re.MULTILINE)))


def _matching(roots: Iterable[str], *patterns: str) -> Iterator[Path]:
    for root in roots:
        for pattern in patterns:
            try:
                yield from (folder for folder in sorted(Path(root).glob(pattern)) if folder.is_dir())
            except (OSError, ValueError):
                continue
