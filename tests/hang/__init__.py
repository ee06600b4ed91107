"""A disk that hangs, simulated below the router: a small C library that LD_PRELOAD puts before the system's own."""

from __future__ import annotations

from pathlib import Path

from tests import native


def build() -> Path:
    return native.library(Path(__file__).with_name("hang.c"), "hang.so")


def variables(pattern: str, until: Path, *, reads: bool = False, looks: bool = False) -> dict[str, str]:
    """The environment of a process for which files whose path holds `pattern` hang until the file `until` is there:
    as they are opened, or with `reads` as they are read; with `looks` also as they are looked at."""
    return {
        "LD_PRELOAD": str(build()),
        "HANG_PATTERN": pattern,
        "HANG_UNTIL": str(until),
        **({"HANG_READ": "1"} if reads else {}),
        **({"HANG_LOOK": "1"} if looks else {}),
    }


def failing(pattern: str, code: int, begin: Path | None = None) -> dict[str, str]:
    """The environment of a process for which looks at such files fail with this errno, as of a mount that has gone;
    from when the file `begin` is there."""
    found = {"HANG_PATTERN": pattern, "HANG_ERRNO": str(code), "HANG_LOOK": "1"}
    found |= {"HANG_FROM": str(begin)} if begin else {}
    return {"LD_PRELOAD": str(build()), **found}
