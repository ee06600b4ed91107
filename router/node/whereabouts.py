"""Where this user's routers listen: each says so in a file in its run folder, and commands find it there.

The file holds no key, only the paths of the files with keys and with the certificate. Only its user can read it, and it
goes with the run folder. A killed router leaves its file behind, so a file counts only while the process that wrote it
lives: the same pid, started at the same time. `serve` publishes, `router.client` reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from router import files
from router.node.run_directory import ANY_BY_OTHERS, RunDirectory
from router.node.run_roots import WRITE_BY_OTHERS, is_own_folder

FILE = "router.json"
MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """One router that runs.

    `urls` are all its addresses, such as `http://127.0.0.1:8080` or `unix:/run/x.sock`; `prefix` is not part of them.
    `hosts` are the words of `--host`.
    `certificate` and `key_files` are absolute paths.
    `birth` is when the process began, as `birth_of` tells it.
    """

    urls: tuple[str, ...]
    prefix: str = ""
    hosts: tuple[str, ...] = ()
    certificate: str | None = None
    key_files: tuple[str, ...] = ()
    pid: int = 0
    birth: str = ""

    def publish(self, run: RunDirectory) -> None:
        run.publish(FILE, json.dumps({**asdict(self), "pid": os.getpid(), "birth": birth_of(os.getpid())}))

    @classmethod
    def of(cls, fields: Any) -> Whereabouts | None:
        """None for what no router wrote."""
        try:
            made = cls(
                urls=tuple(map(str, fields["urls"])),
                prefix=str(fields["prefix"]),
                hosts=tuple(map(str, fields["hosts"])),
                certificate=None if fields["certificate"] is None else str(fields["certificate"]),
                key_files=tuple(map(str, fields["key_files"])),
                pid=int(fields["pid"]),
                birth=str(fields["birth"]),
            )
        except (LookupError, TypeError, ValueError):
            return None
        return made if made.urls else None

    def is_alive(self) -> bool:
        return bool(self.birth) and birth_of(self.pid) == self.birth


def birth_of(pid: int) -> str:
    """When a process began, in the system's own figures; empty if there is none, or it has ended."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # Ticks since the machine started: unlike a date, they do not change when the clock is set. A process that has
        # ended (Z, X) is listed until its parent asks for it, and listens no more.
        return "" if facts[0] in "ZX" else facts[19]
    except (OSError, ValueError, IndexError):
        pass
    try:
        return repr(psutil.Process(pid).create_time())
    except (psutil.Error, ValueError, OverflowError):
        return ""


def find_all(roots: Iterable[Path]) -> list[Whereabouts]:
    """The routers that run and have their folder in one of these."""
    found: dict[int, Whereabouts] = {}
    for root in roots:
        if not is_own_folder(root, WRITE_BY_OTHERS):
            continue
        try:
            folders = sorted(root.iterdir())
        except OSError:
            continue
        for folder in folders:
            if is_own_folder(folder, ANY_BY_OTHERS) and (read := _read(folder / FILE)) and read.is_alive():
                found[read.pid] = read
    return list(found.values())


def _read(path: Path) -> Whereabouts | None:
    try:
        status = path.lstat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & WRITE_BY_OTHERS):
            return None
        return Whereabouts.of(json.loads(files.read(path, MAX_BYTES)))
    except (OSError, ValueError, RecursionError):
        return None
