"""Why a program cannot be run, as a sentence that says what to do.

A loader's message names a library, not its package; and the system's own word for a program of another machine or of
another C library is "Exec format error", or even "No such file" for a file that is there. What the program's file says
about itself is read here, and what it wrote. Called by `discovery`; `node.crash` explains children's ends with `cause`.
"""

from __future__ import annotations

import errno
import platform
import re
import signal
from collections.abc import Mapping
from pathlib import Path

from router import files
from router.engine import libraries

HEAD_BYTES = 4096  # of a program: its header, and the name of its loader
# Processors in the header of an ELF file (e_machine), under the names that `platform.machine` has for them.
MACHINES: Mapping[int, str] = {3: "i686", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64le"}
SAME_MACHINES: Mapping[str, str] = {"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "armv7l": "arm"}
OTHER_SYSTEMS = ((b"MZ", "Windows"), (b"\xcf\xfa\xed\xfe", "macOS"), (b"\xca\xfe\xba\xbe", "macOS"))


def why_not_run(program: Path, error: OSError) -> str:
    """Why the system does not run a file that is there: a sentence without its full stop, empty if it is not known."""
    try:
        head = files.read_start(program, HEAD_BYTES)
    except (OSError, ValueError):
        return ""
    match error.errno:
        case errno.ENOENT:
            return _missing_loader(head)
        case errno.ENOEXEC:
            return _wrong_format(head)
        case errno.EACCES:
            return (
                f"its file system may be mounted noexec, or a folder above it may not be entered: see `ls -l {program}`"
            )
    return ""


def cause(text: str) -> str:
    """What a loader's or a shell's message means, as a sentence without its full stop; empty if it is none."""
    for pattern, sentence in CAUSES:
        if found := pattern.search(text):
            groups = [group.strip() if group else "" for group in found.groups()]
            advice = libraries.advice(groups[0]) if groups else ""
            return sentence.format(*groups, advice=f": {advice}" if advice else "", libc=_libc())
    return ""


def why_ended(code: int, text: str) -> str:
    """Why a program ended that should only have told its version; empty if it is not known."""
    if found := cause(text):
        return found
    if code < 0 and -code == getattr(signal, "SIGILL", 0):
        return "it was built for another processor: take a build for this one, or compile it here"
    return ""


CAUSES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), sentence)
    for pattern, sentence in (
        # glibc, musl, macOS
        (r"error while loading shared libraries: (\S+): wrong ELF class", "the library {0} is of another machine"),
        (
            r"error while loading shared libraries: (\S+): (?:file too short|invalid ELF header)",
            "the library {0} is damaged: install the engine again",
        ),
        (r"error while loading shared libraries: (\S+):", "a library is missing ({0}{advice})"),
        (r"Error loading shared library ([^:\s]+): No such file", "a library is missing ({0}{advice})"),
        (r"Library not loaded: (\S+)", "a library is missing ({0}{advice})"),
        (
            r"version [`'](GLIBC_[\d.]+)' not found \(required by",
            "it was built for a newer system ({0} is needed, {libc} is here): take a build for an older one, "
            "or compile it here",
        ),
        (
            r"version [`']((?:GLIBCXX|CXXABI)_[\d.]+)' not found \(required by",
            "it was built with a newer compiler ({0} is needed): install a newer libstdc++6, or compile it here",
        ),
        (r"version [`'](\w+[\d.]+)' not found \(required by", "a library here is too old for it ({0} is needed)"),
        (
            r"symbol lookup error: .*undefined symbol: |Symbol not found: _|Error relocating \S+: \S+: symbol not",
            f"it finds the libraries of another build first: look at {libraries.LIBRARY_PATH}",
        ),
    )
)


def _missing_loader(head: bytes) -> str:
    """A file that is there and is "not found" names a program that is not: its loader, or the one of a script."""
    if head.startswith(b"#!"):
        words = head[2:].splitlines()[0].split() if head[2:].strip() else []
        interpreter = words[0].decode("utf-8", "replace") if words else "no program"
        if head.split(b"\n", 1)[0].endswith(b"\r"):
            return "it is a script with the line ends of Windows: convert it with `dos2unix`"
        return f"it is a script for {interpreter}, which is not here"
    if found := re.search(rb"/[\w./-]*ld-[\w.-]*\.so[.\d]*", head):
        loader = found[0].decode()
        kind = "musl (Alpine)" if "musl" in loader else "glibc"
        return f"it was built for {kind} and needs {loader}, which is not here: take a build for this system"
    return ""


def _wrong_format(head: bytes) -> str:
    for magic, system in OTHER_SYSTEMS:
        if head.startswith(magic):
            return f"it is a program for {system}: take a build for this system"
    if head.startswith(b"\x7fELF") and len(head) > 20:
        machine = MACHINES.get(int.from_bytes(head[18:20], "little" if head[5] == 1 else "big"))
        here = platform.machine().lower()
        if machine and machine != SAME_MACHINES.get(here, here):
            return f"it was built for {machine}, and this machine is {here}: take a build for {here}"
        return ""
    if not head.strip():
        return "the file is empty: download it again"
    if b"\0" not in head:
        return "it is a text without #! and an interpreter in its first line, or a download that failed: look into it"
    return ""


def _libc() -> str:
    name, version = platform.libc_ver()
    return f"{name} {version}" if name else "another C library"
