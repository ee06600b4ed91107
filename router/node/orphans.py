"""Children must not outlive their router, whatever ends it; three nets, the quickest first.

1. A child that has loaded ends when its stdin closes, which the kernel does for a dead router.
2. One `Watchdog` a router, a shell that sleeps in `read` on a pipe from it, holds the process groups of all children
   and kills them when the pipe ends: also those that still load, hang, or ignore their stdin. The parent-death signal
   would need a wrapper around every start (in the child it is too late, in a `preexec_fn` it forbids vfork, which
   costs 30 ms with half a GB of heap), exists on Linux only, does not reach grandchildren, and fires when the
   *thread* that spawned ends. This costs one short write a start.
3. `Run.open` looks for runs whose router is gone and ends what carries their mark in its environment, never by name.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from router.errors import ConfigError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("router.orphans")

MARK = "LLAMA_ROUTER_RUN"
SCRIPT = """
trap "" HUP INT TERM
while read -r groups; do live=$groups; done
[ -n "$live" ] && kill -s KILL -- $live
"""
# sockaddr_un holds 104 bytes on macOS and 108 on Linux, the final zero included.
LONGEST_FOLDER = 90


def tree_of(pid: int) -> tuple[int, ...]:
    """The process and what it started."""
    try:
        return (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True)))
    except psutil.Error:
        return (pid,)


def birth_of(pid: int) -> float:
    """When the machine says that the process began, in seconds since 1970; now, for one that has gone."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return time.time()


class Watchdog:
    """Tells the shell the whole set at every change, so that it has nothing to keep but one line."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._shell: subprocess.Popen[bytes] | None = None

    def watch(self, group: int) -> None:
        self._groups.add(group)
        self._tell()

    def forget(self, group: int) -> None:
        self._groups.discard(group)
        self._tell()

    def close(self) -> None:
        """Kills what is still watched."""
        if self._shell:
            self._shell.communicate()
            self._shell = None

    def _tell(self) -> None:
        line = (" ".join(f"-{group}" for group in sorted(self._groups)) + "\n").encode()
        for _ in range(2):  # once more for a shell that something killed
            shell = self._shell = self._shell or self._start()
            if shell is None or shell.stdin is None:
                return
            try:
                shell.stdin.write(line)
                return
            except BrokenPipeError:
                self.close()

    def _start(self) -> subprocess.Popen[bytes] | None:
        try:
            return subprocess.Popen(
                ["/bin/sh", "-c", SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            log.warning("no /bin/sh (%s): children that still load will outlive a killed router", error)
            return None


class Run:
    """The private folder (0700) of one running router: sockets, and a lock that the kernel drops with its owner."""

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        self.folder = folder
        self._lock = lock

    @classmethod
    def open(cls, root: Path) -> Run:
        """End what earlier routers left in `root`, then make this one's folder in it.

        `root` is made when it is missing. Raises ConfigError when it belongs to somebody else or is too long for a
        unix socket's name. Blocks for some milliseconds.
        """
        with _root_lock(root):
            for folder in root.iterdir():
                if _is_ours(folder, 0o022) and (folder / "lock").is_file():
                    _sweep(folder)
            folder = root / secrets.token_hex(4)
            folder.mkdir(mode=0o700)
            lock = _lock_file(folder)
            _lock(lock, wait=True)
        return cls(folder, lock)

    @property
    def mark(self) -> str:
        return str(self.folder)

    def renew(self) -> None:
        """Make the folder anew if it has gone: whoever cleans up /tmp takes it for old. It keeps its name, which
        children that live carry as their mark. Raises ConfigError if it cannot be made, or somebody else has."""
        if _is_ours(self.folder) and _is_same(self._lock, self.folder / "lock"):
            return
        with _root_lock(self.folder.parent):
            try:
                self.folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"{self.folder} cannot be made anew ({error.strerror}).") from error
            if not _is_ours(self.folder):
                raise ConfigError(f"{self.folder} must be yours alone, as children's sockets go there: remove it.")
            lock = _lock_file(self.folder)
            if not _lock(lock, wait=False):
                lock.close()
                raise ConfigError(f"{self.folder} is another router's.")
            before, self._lock = self._lock, lock
            before.close()

    def close(self) -> None:
        if _is_ours(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _is_ours(folder: Path, forbidden: int = 0o077) -> bool:
    """Whether it is a folder, no link, of this user, that gives others none of what is `forbidden`."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    is_folder = stat.S_ISDIR(status.st_mode)
    return is_folder and (
        not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & forbidden)
    )


def _is_same(file: IO[bytes], path: Path) -> bool:
    """Whether that is the path of the open file, still."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except OSError:
        return False


def _lock_file(folder: Path) -> IO[bytes]:
    """Opened to be locked; nobody waits, and nothing is followed, whatever stands in its place. Raises ConfigError."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return open(os.open(folder / "lock", flags, 0o600), "r+b", buffering=0)
    except OSError as error:
        raise ConfigError(
            f"{folder / 'lock'} cannot be opened ({error.strerror}). Remove it, or name another --run-dir."
        ) from error


@contextlib.contextmanager
def _root_lock(root: Path) -> Iterator[None]:
    """Held while a run is opened, so that a folder without its lock yet is not taken for a leftover."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{root} cannot be made ({error.strerror}). Name another --run-dir.") from error
    if not _is_ours(root, 0o022):
        raise ConfigError(f"{root} must be yours alone, as children's sockets go there. Name another --run-dir.")
    if len(os.fsencode(root)) > LONGEST_FOLDER - 9:
        raise ConfigError(f"{root} is too long for the name of a unix socket. Name a shorter --run-dir.")
    with _lock_file(root) as lock:
        _lock(lock, wait=True)
        yield


def _sweep(folder: Path) -> None:
    try:
        lock = _lock_file(folder)
    except ConfigError as error:
        log.warning("what is left of another router is left there: %s", error)
        return
    with lock:
        if not _lock(lock, wait=False):
            return  # its router lives
        left = [process for process in psutil.process_iter() if _mark(process) == str(folder)]
        for process in left:
            log.warning("ending process %d, which a killed router left behind", process.pid)
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=2)  # they hold memory until they are gone
        shutil.rmtree(folder, ignore_errors=True)


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):  # another user's, or gone meanwhile
        return None


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
