"""Why a program cannot be run: by what the system says, by the program's file, and by what it wrote."""

from __future__ import annotations

import errno
import platform
import re
import signal
from pathlib import Path

import pytest

from router.engine import discovery, obstacles
from router.errors import EngineError

LOADER = "x: error while loading shared libraries: "
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00"


def elf(machine: int, loader: bytes = b"") -> bytes:
    return ELF + machine.to_bytes(2, "little") + bytes(200) + loader + bytes(200)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            LOADER + "libcudart.so.12: cannot open shared object file: No such file",
            "missing .libcudart.so.12: .*cu12",
        ),
        (LOADER + "libgomp.so.1: cannot open shared object file: No such", "missing .libgomp.so.1: .*apt"),
        (LOADER + "libnew.so.1: cannot open shared object file: No such file", "missing .libnew.so.1\\)"),
        (LOADER + "libcurl.so.4: wrong ELF class: ELFCLASS32", "libcurl.so.4 is of another machine"),
        (LOADER + "libcurl.so.4: file too short", "libcurl.so.4 is damaged"),
        (
            "Error loading shared library libgomp.so.1: No such file or directory (needed by x)",
            "missing .libgomp",
        ),
        ("dyld[1]: Library not loaded: @rpath/libllama.dylib", "missing .*libllama.dylib: it is the engine's own"),
        ("x: /lib/libc.so.6: version `GLIBC_2.38' not found (required by x)", "newer system .GLIBC_2.38 is needed"),
        ("x: /lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by x)", "newer compiler"),
        ("x: /lib/libssl.so.3: version `OPENSSL_3.2.0' not found (required by x)", "too old for it .OPENSSL_3.2.0"),
        ("x: symbol lookup error: x: undefined symbol: ggml_time_us", "libraries of another build"),
    ],
)
def test_messages_of_loaders_are_understood(tmp_path: Path, line: str, sentence: str) -> None:
    assert re.search(sentence, obstacles.cause(line)), obstacles.cause(line)
    path = tmp_path / "llama-server"
    path.write_text(f'#!/bin/sh\ncat >&2 <<"END"\n{line}\nEND\nexit 127\n')
    path.chmod(0o755)
    with pytest.raises(EngineError, match=sentence):
        discovery.find(str(path), {}).version()


@pytest.mark.parametrize("line", ["version 3 not found", "the model has no symbol", "symbol not found", ""])
def test_other_messages_are_no_loaders(line: str) -> None:
    assert obstacles.cause(line) == ""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (elf(183 if platform.machine() != "aarch64" else 62), "it was built for (aarch64|x86_64), and this machine is"),
        (b"MZ" + bytes(200), "a program for Windows"),
        (b"\xcf\xfa\xed\xfe" + bytes(200), "a program for macOS"),
        (b"<!DOCTYPE html><html>", "a text without #!"),
        (b"\n", "the file is empty"),
        (b"#!/no/such/shell -x\n", "a script for /no/such/shell, which is not here"),
        (b"#!/bin/sh\r\nexit 0\r\n", "line ends of Windows"),
    ],
)
def test_files_that_the_system_does_not_run_say_why(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "llama-server"
    path.write_bytes(content)
    path.chmod(0o755)
    with pytest.raises(EngineError, match=rf"cannot be run \(.*\): .*{sentence}"):
        discovery.find(str(path), {}).version()


@pytest.mark.parametrize(
    ("loader", "kind"), [(b"/lib/ld-musl-x86_64.so.1", "musl"), (b"/lib64/ld-linux-x86-64.so.2", "glibc")]
)
def test_a_program_of_another_c_library_is_told_from_a_missing_file(tmp_path: Path, loader: bytes, kind: str) -> None:
    path = tmp_path / "llama-server"
    path.write_bytes(elf(62, loader))
    why = obstacles.why_not_run(path, OSError(errno.ENOENT, "No such file or directory"))
    assert kind in why
    assert loader.decode() in why


def test_a_file_system_without_programs_and_another_processor(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(elf(62))
    assert "noexec" in obstacles.why_not_run(tmp_path / "x", OSError(errno.EACCES, "Permission denied"))
    assert obstacles.why_not_run(tmp_path / "none", OSError(errno.ENOENT, "No such file")) == ""
    assert "another processor" in obstacles.why_ended(-signal.SIGILL, "")
    assert obstacles.why_ended(1, "no luck") == ""
