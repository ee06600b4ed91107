"""The private folder of one running router, where its children's sockets are.

All routers of a user share a root folder (`--run-dir`), and each makes a folder of its own in it. The folder holds a
lock file. The kernel drops the lock when its owner dies, so a folder whose lock is free was left behind. The next
router that starts removes it, and ends the processes that were left with it. They are recognised by the variable `MARK`
in their environment, never by name. `local` has one RunDirectory; for the other safety nets see `watchdog`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from router.errors import ConfigError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("router.orphans")

MARK = "LLAMA_ROUTER_RUN"
# The name of a unix socket has 104 bytes on macOS and 108 on Linux, the final zero included (sockaddr_un). The rest is
# for the name of the socket itself.
MAX_FOLDER_BYTES = 90

# Permissions that others must not have: in the root they may look, in the folder itself they may do nothing.
WRITE_BY_OTHERS = 0o022
ANY_BY_OTHERS = 0o077


class RunDirectory:
    """The private folder (0700) of one running router, and the lock in it.

    run = RunDirectory.open(Path("/run/user/1000/llama-router"))
    environ[MARK] = run.mark
    socket = run.folder / "1.sock"
    """

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        self.folder = folder
        self._lock = lock

    def __repr__(self) -> str:
        return f"<RunDirectory {self.folder}>"

    @classmethod
    def open(cls, root: Path) -> RunDirectory:
        """End what earlier routers left in `root`, then make a folder for this router in it.

        `root` is made if it is missing. Raises ConfigError if it is not this user's alone, or too long for the name of
        a unix socket. Blocks for some milliseconds.
        """
        with _root_lock(root):
            for folder in root.iterdir():
                if _is_own_folder(folder, WRITE_BY_OTHERS) and (folder / "lock").is_file():
                    _clean_up(folder)
            folder = root / secrets.token_hex(4)
            folder.mkdir(mode=0o700)
            lock = _open_lock_file(folder)
            _acquire(lock, wait=True)
        return cls(folder, lock)

    @property
    def mark(self) -> str:
        """The value of the variable MARK in the environment of each child."""
        return str(self.folder)

    def renew(self) -> None:
        """Make the folder again if it has gone: a program that cleans up /tmp takes it for old.

        It keeps its name, because living children carry it as their mark. Raises ConfigError if the folder cannot be
        made, or if another user has made one there.
        """
        if _is_own_folder(self.folder, ANY_BY_OTHERS) and _is_at(self._lock, self.folder / "lock"):
            return
        with _root_lock(self.folder.parent):
            try:
                self.folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"{self.folder} cannot be made anew ({error.strerror}).") from error
            if not _is_own_folder(self.folder, ANY_BY_OTHERS):
                raise ConfigError(f"{self.folder} must be yours alone, as children's sockets go there: remove it.")
            lock = _open_lock_file(self.folder)
            if not _acquire(lock, wait=False):
                lock.close()
                raise ConfigError(f"{self.folder} is another router's.")
            before, self._lock = self._lock, lock
            before.close()

    def close(self) -> None:
        if _is_own_folder(self.folder, ANY_BY_OTHERS):
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _is_own_folder(folder: Path, forbidden: int) -> bool:
    """Whether it is a folder of this user, not a link, and gives others none of the `forbidden` permissions."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    is_folder = stat.S_ISDIR(status.st_mode)
    return is_folder and (
        not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & forbidden)
    )


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether the open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except OSError:
        return False


def _open_lock_file(folder: Path) -> IO[bytes]:
    """Open the lock file, and make it if it is missing. Raises ConfigError.

    Another program may have put anything in its place: a link is not followed, and a pipe is not waited for.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return open(os.open(folder / "lock", flags, 0o600), "r+b", buffering=0)
    except OSError as error:
        raise ConfigError(
            f"{folder / 'lock'} cannot be opened ({error.strerror}). Remove it, or name another --run-dir."
        ) from error


@contextlib.contextmanager
def _root_lock(root: Path) -> Iterator[None]:
    """Hold the lock of the root folder, which is made if it is missing. Raises ConfigError.

    Without this lock another router could see a folder that has no lock yet, and take it for a leftover.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{root} cannot be made ({error.strerror}). Name another --run-dir.") from error
    if not _is_own_folder(root, WRITE_BY_OTHERS):
        raise ConfigError(f"{root} must be yours alone, as children's sockets go there. Name another --run-dir.")
    if len(os.fsencode(root)) > MAX_FOLDER_BYTES - 9:  # a slash and the eight digits of the router's own folder
        raise ConfigError(f"{root} is too long for the name of a unix socket. Name a shorter --run-dir.")
    with _open_lock_file(root) as lock:
        _acquire(lock, wait=True)
        yield


def _clean_up(folder: Path) -> None:
    """Remove the folder of a router that is gone, and end the processes it left behind."""
    try:
        lock = _open_lock_file(folder)
    except ConfigError as error:
        log.warning("a folder that another router left behind is not removed: %s", error)
        return
    with lock:
        if not _acquire(lock, wait=False):
            return  # its router lives
        left = [process for process in psutil.process_iter() if _mark_of(process) == str(folder)]
        for process in left:
            log.warning("ending process %d, which a killed router left behind", process.pid)
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=2)  # they hold memory until they are gone
        shutil.rmtree(folder, ignore_errors=True)


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):  # another user's process, or one that has gone meanwhile
        return None


def _acquire(lock: IO[bytes], *, wait: bool) -> bool:
    """Whether the lock is this process's now."""
    if sys.platform != "win32":
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
