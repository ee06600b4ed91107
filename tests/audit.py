"""What this process asks of the file system, in all its threads.

The functions that open files and list folders are wrapped for a while. An audit hook would see the same, but it stays
for good, and under CPython 3.11 a thread that begins while a hook in Python runs cannot be traced: it never runs.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

FUNCTIONS: tuple[tuple[ModuleType, str], ...] = (
    (builtins, "open"),
    (io, "open"),
    (os, "open"),
    (os, "scandir"),
    (os, "listdir"),
)


@contextlib.contextmanager
def looked(folder: Path) -> Iterator[list[str]]:
    """Paths below `folder`, of the files that are opened and the folders that are listed until the block ends, by
    whatever thread."""
    paths: list[str] = []

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def listening(path: Any = ".", *args: Any, **more: Any) -> Any:
            if str(path).startswith(str(folder)):
                paths.append(str(path))
            return function(path, *args, **more)

        return listening

    before = [(module, name, getattr(module, name)) for module, name in FUNCTIONS]
    try:
        for module, name, function in before:
            setattr(module, name, wrapped(function))
        yield paths
    finally:
        for module, name, function in before:
            setattr(module, name, function)
