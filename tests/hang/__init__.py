"""A disk that hangs, simulated below the router: a small C library that LD_PRELOAD puts before the system's own."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path


@cache
def build() -> Path:
    """The library, compiled once a session."""
    folder = Path(tempfile.mkdtemp(prefix="hang-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source, library = Path(__file__).with_name("hang.c"), folder / "hang.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library


def variables(pattern: str, until: Path, *, reads: bool = False) -> dict[str, str]:
    """The environment of a process for which files whose path holds `pattern` hang until the file `until` is there."""
    return {
        "LD_PRELOAD": str(build()),
        "HANG_PATTERN": pattern,
        "HANG_UNTIL": str(until),
        **({"HANG_READ": "1"} if reads else {}),
    }
