"""The private folder of one running router, where its children's sockets are.

All routers of a user share a root folder (`--run-dir`), and each makes a folder of its own in it. The folder holds a
lock file. The kernel drops the lock when its owner dies, so a folder whose lock is free was left behind. The next
router that starts removes it, and ends the processes that were left with it. They are recognised by the variable `MARK`
in their environment, never by name. `local` has one RunDirectory; for the other safety nets see `watchdog`.

Without `--run-dir` the root is the first of `run_roots` that takes unix sockets. If none does, children listen on
loopback, and the folder is only for files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import psutil

from router.errors import ConfigError
from router.node.run_roots import WRITE_BY_OTHERS, is_own_folder

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("router.orphans")

MARK = "LLAMA_ROUTER_RUN"
# The name of a unix socket has 104 bytes on macOS and 108 on Linux, the final zero included (sockaddr_un). The rest is
# for the name of the socket itself.
MAX_FOLDER_BYTES = 90

# What others must not do in the folder itself; in the root they may look.
ANY_BY_OTHERS = 0o077


class RunDirectory:
    """The private folder (0700) of one running router, and the lock in it.

    `has_sockets`: unix sockets may be made in it.

    ::

        run = RunDirectory.open(Path("/run/user/1000/llama-router"))
        environ[MARK] = run.mark
        socket = run.folder / "1.sock"
    """

    def __init__(self, folder: Path, lock: IO[bytes], *, has_sockets: bool = True) -> None:
        self.folder = folder
        self.has_sockets = has_sockets
        self._lock = lock
        self._published: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<RunDirectory {self.folder}>"

    @classmethod
    def open(cls, root: Path, *, needs_sockets: bool = True) -> RunDirectory:
        """End what earlier routers left in `root`, then make a folder for this router in it.

        `root` is made if it is missing. Raises ConfigError if it is not this user's alone, or with `needs_sockets` if
        it does not take unix sockets. Blocks for some milliseconds.
        """
        needs_sockets = needs_sockets and hasattr(socket, "AF_UNIX")
        if needs_sockets and len(os.fsencode(root)) > MAX_FOLDER_BYTES - 9:  # a slash and the folder's eight digits
            raise ConfigError(f"{root} is too long for the name of a unix socket. Name a shorter --run-dir.")
        if needs_sockets and not _is_text(root):
            raise ConfigError(f"{root} is no UTF-8 text, which not every engine can open. Name another --run-dir.")
        with _root_lock(root):
            _clean_up_all(root)
            folder = root / secrets.token_hex(4)
            try:
                folder.mkdir(mode=0o700)
                lock = _open_lock_file(folder)
            except OSError as error:
                raise ConfigError(f"{folder} cannot be made ({error.strerror}). Name another --run-dir.") from error
            _acquire(lock, wait=True)
        run = cls(folder, lock, has_sockets=needs_sockets)
        if run.has_sockets and (why := _why_no_socket(folder)):
            run.close()
            raise ConfigError(f"{root} takes no unix sockets ({why}). Name another --run-dir.")
        return run

    @classmethod
    def open_any(cls, roots: Sequence[Path]) -> RunDirectory:
        """As `open`, in the first root that takes unix sockets, else in the first that takes files. What earlier
        routers left is looked for in all of them. Raises ConfigError if none takes files."""
        run: RunDirectory | None = None
        problems: list[str] = []
        for root in roots:
            if run is not None:
                clean_up(root)
                continue
            try:
                run = cls.open(root)
            except ConfigError as error:
                problems.append(_reason(error))
                clean_up(root)
        if run is not None and problems:
            log.info("children's sockets are in %s: %s", run.folder, " ".join(problems))
        for root in roots if run is None else ():
            with contextlib.suppress(ConfigError):
                run = cls.open(root, needs_sockets=False)
                log.warning("children listen on loopback: no folder takes their unix sockets (%s)", " ".join(problems))
                break
        if run is None:
            why = " ".join(problems) or "All that there are can be changed by other users."
            raise ConfigError(f"No folder takes the files of children; name one with --run-dir. {why}")
        return run

    @property
    def mark(self) -> str:
        """The value of the variable MARK in the environment of each child."""
        return str(self.folder)

    def renew(self) -> None:
        """Make the folder again if it has gone: a program that cleans up /tmp takes it for old.

        It keeps its name, because living children carry it as their mark. Raises ConfigError if the folder cannot be
        made, or if another user has made one there.
        """
        if is_own_folder(self.folder, ANY_BY_OTHERS) and _is_at(self._lock, self.folder / "lock"):
            return
        with _root_lock(self.folder.parent):
            try:
                self.folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"{self.folder} cannot be made anew ({error.strerror}).") from error
            if not is_own_folder(self.folder, ANY_BY_OTHERS):
                raise ConfigError(f"{self.folder} must be yours alone, as children's sockets go there: remove it.")
            lock = _open_lock_file(self.folder)
            if not _acquire(lock, wait=False):
                lock.close()
                raise ConfigError(f"{self.folder} is another router's.")
            before, self._lock = self._lock, lock
            before.close()
            for name, text in self._published.items():
                self._write(name, text)

    def publish(self, name: str, text: str) -> None:
        """Write a file that only this user can read; it goes with the folder. A disk that is full is no error."""
        self._published[name] = text
        self._write(name, text)

    def _write(self, name: str, text: str) -> None:
        new = self.folder / f"{name}.new"
        try:
            with open(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
            new.replace(self.folder / name)
        except OSError as error:
            log.warning("%s cannot be written (%s)", self.folder / name, error.strerror)

    def close(self) -> None:
        if is_own_folder(self.folder, ANY_BY_OTHERS):
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


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
    if not is_own_folder(root, WRITE_BY_OTHERS):
        raise ConfigError(f"{root} must be yours alone, as children's sockets go there. Name another --run-dir.")
    with _open_lock_file(root) as lock:
        _acquire(lock, wait=True)
        yield


def clean_up(root: Path) -> None:
    """End what earlier routers left in `root`, if it is this user's. Makes nothing, and never raises."""
    if not is_own_folder(root, WRITE_BY_OTHERS):
        return
    try:
        with _root_lock(root):
            _clean_up_all(root)
    except (ConfigError, OSError) as error:
        why = _reason(error) if isinstance(error, ConfigError) else error
        log.warning("what earlier routers left in %s is not looked for: %s", root, why)


def _reason(error: ConfigError) -> str:
    """What is wrong, without what its user could do if he had named the folder."""
    return re.split(r"[.,] (?:Name|Remove) ", error.message)[0] + "."


def _why_no_socket(folder: Path) -> str:
    """Why a unix socket cannot be made in this folder; empty if it can. Some file systems have none."""
    path = folder / "0.sock"  # children's begin with 1
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
        path.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _clean_up_all(root: Path) -> None:
    for folder in root.iterdir():
        if is_own_folder(folder, WRITE_BY_OTHERS) and (folder / "lock").is_file():
            _clean_up(folder)


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
