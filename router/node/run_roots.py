"""Where the folders of running routers are, unless `--run-dir` says it: the places to try, the best first.

A place must take files, and unix sockets whose names are not too long. And nobody else may be able to put something of
his own in the place of our folder, because whoever owns a child's socket reads what clients ask. `run_directory` makes
the folders.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

WRITE_BY_OTHERS = 0o022
# Files of users that a container does not know belong to this one there.
OVERFLOW_USER = Path("/proc/sys/kernel/overflowuid")
# /dev/shm takes sockets too, and is there when a container may write nothing else.
SHARED = ("/tmp", "/var/tmp", "/dev/shm")


def run_roots(environ: Mapping[str, str]) -> list[Path]:
    """All root folders that a router of this user may have used or may use, the best first.

    The first are in the user's own runtime folder, the others in folders that users share. There another user may have
    taken our name; then a name that nobody could guess takes its place.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    found = []
    runtime = Path(environ.get("XDG_RUNTIME_DIR") or ".")
    if runtime.is_absolute() and _is_safe(runtime) and is_own_folder(runtime.resolve(), WRITE_BY_OTHERS):
        found.append(runtime / "llama-router")
    for base in _shared_folders(environ):
        name = base / f"llama-router-{user}"
        with contextlib.suppress(OSError):
            others = sorted(path for path in base.glob(f"{name.name}-*") if is_own_folder(path, WRITE_BY_OTHERS))
            is_taken = os.path.lexists(name) and not is_own_folder(name, WRITE_BY_OTHERS)
            if is_taken and not others:
                others = [base / f"{name.name}-{secrets.token_hex(4)}"]
            found += others if is_taken else [name, *others]
    return list(dict.fromkeys(found))


def is_own_folder(folder: Path, forbidden: int) -> bool:
    """Whether it is a folder of this user, not a link, and gives others none of the `forbidden` permissions."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    is_folder = stat.S_ISDIR(status.st_mode)
    return is_folder and (
        not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & forbidden)
    )


def _shared_folders(environ: Mapping[str, str]) -> Iterator[Path]:
    names = [environ.get("TMPDIR", ""), *SHARED]
    if not hasattr(os, "getuid"):  # Windows; elsewhere this would try the folder in which the router was started
        names = [tempfile.gettempdir()]
    for name in dict.fromkeys(filter(None, names)):
        path = Path(name).absolute()
        if _is_safe(path):
            yield path


def _is_safe(base: Path) -> bool:
    """Whether nobody but this user and root can replace a folder of ours in it, or a folder on the way to it."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        real = base.resolve(strict=True)
        return real.is_dir() and all(_keeps_entries(folder.stat()) for folder in (real, *real.parents))
    return False


def _keeps_entries(status: os.stat_result) -> bool:
    if not hasattr(os, "getuid"):
        return True
    forbidden = stat.S_IWOTH if status.st_gid == 0 else WRITE_BY_OTHERS
    is_shared = bool(status.st_mode & forbidden) and not status.st_mode & stat.S_ISVTX
    return not is_shared and status.st_uid in (0, os.getuid(), _overflow_user())


def _overflow_user() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(OVERFLOW_USER.read_text())
    return 0
