"""Small C libraries of the tests, compiled once a run: workers of pytest-xdist find what another process has made."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

VARIABLE = "TESTS_NATIVE"  # the folder of this run, inherited by the workers


def folder() -> Path:
    """It is removed by the process that made it."""
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = tempfile.mkdtemp(prefix="native-")
        atexit.register(shutil.rmtree, os.environ[VARIABLE], ignore_errors=True)
    return Path(os.environ[VARIABLE])


def library(source: Path, name: str, *flags: str) -> Path:
    """A shared library from one C file. Another process may compile it at the same time: the last one stays."""
    place = folder() / source.stem
    built = place / name
    if not built.exists():
        place.mkdir(exist_ok=True)
        fresh = place / f".{os.getpid()}-{name}"
        options = ("-shared", "-fPIC", "-O1", "-Wall", "-Werror")
        subprocess.run(["cc", *options, *flags, "-o", fresh, source, "-ldl"], check=True)
        fresh.replace(built)
    return built
