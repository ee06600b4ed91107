"""What models really took, by file identity, flags and engine build; kept in a file across restarts."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from router import files

log = logging.getLogger("router.footprints")

LARGEST = 16 << 20  # bytes of the file
LIMIT = 1000  # models and flags that are remembered; the oldest go first


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
            table = json.loads(files.content(self._path, LARGEST))
            return {
                str(key): Footprint(*(int(row[name]) for name in ("gpu", "gpus", "host"))) for key, row in table.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as exc:
            log.warning("what models took is forgotten: %s cannot be read (%s)", self._path, exc)
            return {}

    def _write(self) -> None:
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                table = {key: asdict(found) for key, found in self._known.items()}
            fresh.write_text(json.dumps(table))
            fresh.replace(self._path)  # another router's reader sees the one or the other, never half of it
        except OSError as exc:
            log.warning("what models took is not kept: %s cannot be written (%s)", self._path, exc)
