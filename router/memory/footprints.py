"""What models really took, by file identity, flags and engine build; kept in a file across restarts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from router import files

log = logging.getLogger("router.footprints")

LIMIT = 1000  # models and flags that are remembered; the oldest go first
LARGEST = 4 << 20  # bytes of the file; a full one has some 130 KiB
MOST_BYTES, MOST_GPUS = 1 << 50, 1 << 10  # what no machine has


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on all GPUs together, on how many of them, and in RAM."""

    gpu: int
    gpus: int
    host: int


def key_of(files: Sequence[Path], args: Sequence[str], build: str) -> str:
    """Raises OSError for a file that is not there."""
    stats = [os.stat(path) for path in files]
    identity = [[str(path), s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns] for path, s in zip(files, stats, strict=True)]
    return hashlib.sha256(json.dumps([identity, list(args), build]).encode()).hexdigest()


def default_path(environ: Mapping[str, str]) -> Path:
    cache = environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "llama-router" / "footprints.json"


def _table(path: Path) -> dict[str, Footprint]:
    """What a file says. Raises OSError, ValueError, RecursionError: it is another program's to spoil."""
    table = json.loads(files.content(path, LARGEST))
    if not isinstance(table, dict):
        raise ValueError("it holds no table")
    return {key: _footprint(row) for key, row in list(table.items())[-LIMIT:]}


def _footprint(row: Any) -> Footprint:
    match row:
        case {"gpu": int(gpu), "gpus": int(gpus), "host": int(host)} if (
            0 <= gpu < MOST_BYTES and 0 <= gpus < MOST_GPUS and 0 <= host < MOST_BYTES
        ):
            return Footprint(int(gpu), int(gpus), int(host))
    raise ValueError(f"{str(row)[:80]!r} is no footprint")


class Footprints:
    """Safe to use from threads. A file that cannot be read or written costs a warning, not the service."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # not the readers': the disk may hang
        self._known = self._read()

    def get(self, key: str) -> Footprint | None:
        with self._lock:
            return self._known.get(key)

    def put(self, key: str, found: Footprint) -> None:
        """Remember the greatest of what was seen; blocks for a small write when that is news."""
        with self._lock:
            known = self._known.pop(key, found)
            greatest = Footprint(max(known.gpu, found.gpu), found.gpus or known.gpus, max(known.host, found.host))
            self._known[key] = greatest
            while len(self._known) > LIMIT:
                del self._known[next(iter(self._known))]
            is_news = greatest != known or known is found
        if is_news:
            with self._writing:
                self._write()

    def _read(self) -> dict[str, Footprint]:
        try:
            return _table(self._path)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as exc:
            log.warning(
                "what models took is forgotten: %s cannot be read (%s); it is %s", self._path, exc, self._put_aside()
            )
            return {}

    def _put_aside(self) -> str:
        """For whoever wants to know what was in it. What became of it."""
        aside = self._path.with_name(f"{self._path.name}.bad")
        try:
            self._path.replace(aside)
        except OSError as exc:
            return f"left there, as it cannot be renamed ({exc.strerror})"
        return f"now {aside}"

    def _write(self) -> None:
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                table = {key: asdict(found) for key, found in self._known.items()}
            fresh.write_text(json.dumps(table))
            fresh.replace(self._path)  # another router's reader sees the one or the other, never half of it
        except OSError as exc:
            with contextlib.suppress(OSError):
                fresh.unlink()
            log.warning("what models took is not kept: %s cannot be written (%s)", self._path, exc)
