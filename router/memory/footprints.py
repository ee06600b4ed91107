"""What models really took, kept in a file across restarts.

The best estimate of a model's need is what a process of it took before. It counts as long as nothing has changed that
could change it: the key is made of file identity, flags and engine build. The pool adds a footprint after each load;
`estimator` reads them.

Several routers may use the same file: whoever writes it adds what the others have written, under a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from router import files

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("router.footprints")

MAX_FOOTPRINTS = 1000  # beyond these the oldest are forgotten
MAX_FILE_BYTES = 4 << 20  # a full file has about 130 KiB
# No machine has as much: a larger number in the file is wrong.
MAX_MEMORY_BYTES, MAX_GPUS = 1 << 50, 1 << 10
LOCK_PATIENCE_S = 2.0  # then the file is written without the lock: a small loss is better than a thread that hangs
LOCK_INTERVAL_S = 0.02


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one process took.

    `gpu` is bytes on all GPUs together, `gpus` is how many they are, `host` is bytes of RAM.
    """

    gpu: int
    gpus: int
    host: int

    def greatest(self, other: Footprint) -> Footprint:
        """The greater number of each; `other` is the later measurement, and says on how many GPUs."""
        return Footprint(max(self.gpu, other.gpu), other.gpus or self.gpus, max(self.host, other.host))


def key_of(files: Sequence[Path], args: Sequence[str], build: str) -> str:
    """The key of a model: its files with their identities, its arguments, and the engine's build.

    Raises OSError if a file is not there.
    """
    stats = [os.stat(path) for path in files]
    identity = [[str(path), s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns] for path, s in zip(files, stats, strict=True)]
    return hashlib.sha256(json.dumps([identity, list(args), build]).encode()).hexdigest()


def default_path(environ: Mapping[str, str]) -> Path:
    """The file in the user's cache folder."""
    cache = environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else files.home() / ".cache") / "llama-router" / "footprints.json"


def _read_file(path: Path) -> dict[str, Footprint]:
    """The footprints in a file. Raises OSError, ValueError and RecursionError: any program may have written there."""
    table = json.loads(files.read(path, MAX_FILE_BYTES))
    if not isinstance(table, dict):
        raise ValueError("it holds no table")
    return {key: _footprint(row) for key, row in list(table.items())[-MAX_FOOTPRINTS:]}


def _footprint(row: Any) -> Footprint:
    match row:
        case {"gpu": int(gpu), "gpus": int(gpus), "host": int(host)} if (
            0 <= gpu < MAX_MEMORY_BYTES and 0 <= gpus < MAX_GPUS and 0 <= host < MAX_MEMORY_BYTES
        ):
            return Footprint(int(gpu), int(gpus), int(host))
    raise ValueError(f"{str(row)[:80]!r} is no footprint")


class Footprints:
    """The footprints of all models. May be used from several threads.

    If the file cannot be read or written, a warning is logged and the router goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # of its own: the disk may hang, and readers must not wait for it
        self._known = self._read()

    def __repr__(self) -> str:
        return f"<Footprints of {len(self._known)} models in {self._path}>"

    def get(self, key: str) -> Footprint | None:
        with self._lock:
            return self._known.get(key)

    def put(self, key: str, found: Footprint) -> None:
        """Remember a footprint; of several the greatest numbers. Blocks for a small write if they are new."""
        with self._lock:
            before = self._known.pop(key, found)
            self._known[key] = greatest = before.greatest(found)
            self._forget_oldest()
            is_new = greatest != before or before is found
        if is_new:
            with self._writing:
                self._write()

    def _forget_oldest(self) -> None:
        while len(self._known) > MAX_FOOTPRINTS:
            del self._known[next(iter(self._known))]

    def _read(self) -> dict[str, Footprint]:
        try:
            return _read_file(self._path)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as exc:
            log.warning(
                "no footprints are known: %s cannot be read (%s); the file is %s",
                self._path,
                exc,
                files.put_aside(self._path),
            )
            return {}

    def _write(self) -> None:
        """Write all that is known, with what other routers have written since."""
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path.parent):
                others = self._read()
                with self._lock:
                    self._add(others)
                    table = {key: asdict(found) for key, found in self._known.items()}
                fresh.write_text(json.dumps(table))
                fresh.replace(self._path)  # another router reads the old file or the new one, never half of one
        except OSError as exc:
            with contextlib.suppress(OSError):
                fresh.unlink()
            log.warning("footprints are not kept: %s cannot be written (%s)", self._path, exc)

    def _add(self, others: Mapping[str, Footprint]) -> None:
        """Those of other routers count as older than our own."""
        ours = {key: others[key].greatest(found) if key in others else found for key, found in self._known.items()}
        self._known = {key: found for key, found in others.items() if key not in ours} | ours
        self._forget_oldest()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of this folder, so that of several routers one writes at a time. It is the folder's, because files
    in it are replaced. Raises OSError."""
    if sys.platform == "win32":  # of two routers that write at the same time, the last one wins
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    break
                time.sleep(LOCK_INTERVAL_S)
        yield
    finally:
        os.close(descriptor)
