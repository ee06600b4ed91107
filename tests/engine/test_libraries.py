"""Libraries for GPUs in further folders, and the packages of those that are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from router.engine import libraries

needs_compiler = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("ldd") and sys.platform.startswith("linux")), reason="needs cc and ldd"
)


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("libcudart.so.12", "nvidia-cuda-runtime-cu12"),
        ("libcudart.so.13", "CUDA 13"),
        ("libcublas.so.12", "nvidia-cublas-cu12"),
        ("libcublasLt.so.12", "nvidia-cublas-cu12"),
        ("libcuda.so.1", "driver"),
        ("libgomp.so.1", "apt install libgomp1"),
        ("libcurl.so.4", "apt install libcurl4"),
        ("libvulkan.so.1", "apt install libvulkan1"),
        ("libssl.so.3", "apt install libssl3"),
        ("libcrypto.so.3", "apt install libssl3"),
        ("libopenblas.so.0", "libopenblas0"),
        ("libamdhip64.so.6", "ROCm"),
        ("libstdc++.so.6", "libstdc"),
        ("libggml-base.so.0", "keep all files"),
        ("@rpath/libllama.dylib", "keep all files"),
        ("libc.musl-x86_64.so.1", "musl"),
    ],
)
def test_the_package_of_a_library_is_known(library: str, words: str) -> None:
    assert words in libraries.advice(library)


def test_of_other_libraries_no_package_is_known() -> None:
    assert libraries.advice("libfrobnicate.so.1") == ""


def test_further_folders_are_those_of_pip_and_of_toolkits(tmp_path: Path) -> None:
    wanted = [tmp_path / "site/nvidia/cu13/lib", tmp_path / "site/nvidia/cublas/lib"]
    for folder in (*wanted, tmp_path / "site/other/lib"):
        folder.mkdir(parents=True)
    toolkit = tmp_path / "cuda/lib64"
    toolkit.mkdir(parents=True)
    found = libraries.further_folders([str(tmp_path / "site")], [str(toolkit), str(tmp_path / "none")])
    assert found == [str(folder) for folder in (*wanted, toolkit)]


@needs_compiler
def test_a_folder_is_added_behind_all_others_only_for_a_library_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real program, linked with libraries that lie apart: one in the folder of a package, one in a toolkit."""
    pip, toolkit, useless, build, mine = (tmp_path / name for name in ("pip", "toolkit", "useless", "build", "mine"))
    for folder in (pip, toolkit, useless, build, mine):
        folder.mkdir()

    def compile_(target: Path, text: str, *more: str) -> None:
        source = tmp_path / "source.c"
        source.write_text(text)
        subprocess.run(["cc", str(source), "-o", str(target), "-Wl,--no-as-needed", *more], check=True)

    compile_(toolkit / "libinner.so", "int inner(void) { return 7; }", "-shared", "-fPIC", "-Wl,-soname,libinner.so")
    inner = (f"-L{toolkit}", "-linner")
    outer = "int inner(void); int outer(void) { return inner(); }"
    compile_(pip / "libouter.so", outer, "-shared", "-fPIC", "-Wl,-soname,libouter.so", *inner)
    link = (f"-L{pip}", "-louter", f"-Wl,-rpath-link,{toolkit}")
    compile_(build / "llama-server", "int outer(void); int main(void) { return outer(); }", *link)

    monkeypatch.setattr(libraries, "further_folders", lambda: [str(useless), str(pip), str(toolkit)])
    path = libraries.path_for(build / "llama-server", {libraries.LIBRARY_PATH: str(mine)})
    assert path.split(os.pathsep) == [str(build), str(mine), str(pip), str(toolkit)]
    run = subprocess.run([str(build / "llama-server")], env={libraries.LIBRARY_PATH: path}, check=False)
    assert run.returncode == 7

    for library in (pip / "libouter.so", toolkit / "libinner.so"):  # the user has them: no folder is needed
        shutil.copy(library, mine)
    path = libraries.path_for(build / "llama-server", {libraries.LIBRARY_PATH: str(mine)})
    assert path.split(os.pathsep) == [str(build), str(mine)]


@needs_compiler
def test_a_backend_that_is_opened_later_gets_its_libraries_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "build"):
        (tmp_path / name).mkdir()
    (tmp_path / "source.c").write_text("int f(void) { return 0; }")

    def compile_(target: Path, *more: str) -> None:
        words = ["cc", "-shared", "-fPIC", "-Wl,--no-as-needed", str(tmp_path / "source.c"), "-o", str(target), *more]
        subprocess.run(words, check=True)

    compile_(tmp_path / "cuda/libcudart.so.12", "-Wl,-soname,libcudart.so.12")
    compile_(tmp_path / "build/libggml-cuda.so", f"-L{tmp_path}/cuda", "-l:libcudart.so.12")
    shutil.copy(shutil.which("true") or "", tmp_path / "build/llama-server")
    monkeypatch.setattr(libraries, "further_folders", lambda: [str(tmp_path / "cuda")])
    assert libraries.missing_of(tmp_path / "build/llama-server", str(tmp_path / "build")) == ["libcudart.so.12"]
    path = libraries.path_for(tmp_path / "build/llama-server", {})
    assert path.split(os.pathsep) == [str(tmp_path / "build"), str(tmp_path / "cuda")]
