"""The folders of `--models-dir`, read again when something in them has changed.

The one idea: each folder, and each entry of it, is looked at by itself, in threads that may hang, so that one that is
odd costs itself alone. What hangs or is lost at a later look counts as unchanged: models that run must not end for it.
A folder of models that cannot be listed at all is an error; at the start only if the name is wrong, since a share may
come later. `folder` makes models of what is found. Called by `sources`, at the start and at most once a second
afterwards.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from router import files, patience
from router.errors import CatalogError
from router.hub.change_times import ChangeTimes, anything_changed
from router.models.folder import FoundModels, add_models
from router.models.shards import is_gguf
from router.models.tree import Branch, FoundFile, look

# One folder, several, or none.
Places = Path | Sequence[Path] | None
MAX_WATCHED_FILES = 1000  # that are looked at one by one, because they could not be read


@dataclass(frozen=True, slots=True)
class _Listing:
    """One folder: when it last changed, its path without links, and its entries, or why they are not known."""

    times: ChangeTimes
    real: str
    entries: list[os.DirEntry[str]] | OSError | ValueError | patience.Hung


class ModelFolders:
    """The folders of one router; `flag` is the option that names them. Its methods block; threads may share it.

    ::

        folders = ModelFolders([Path("/models"), Path("/more")])
        folders.read().models["qwen3"].path  # Path("/models/qwen3.gguf")
        folders.is_current()                 # True, until a file comes or goes
    """

    def __init__(self, places: Places, flag: str = "--models-dir") -> None:
        self._flag = flag
        self.roots: tuple[Path, ...] = (places,) if isinstance(places, Path) else tuple(places or ())
        self._lock = threading.Lock()
        self._times: dict[Path, ChangeTimes] = {}
        self._watched: ChangeTimes = ChangeTimes({})
        self._looked_at = 0.0
        self._is_current = True
        self._branches: dict[str, Branch] | None = None  # of the last reading, by the path of the entry

    def __repr__(self) -> str:
        return f"<ModelFolders {', '.join(map(str, self.roots)) or 'none'}>"

    def __bool__(self) -> bool:
        return bool(self.roots)

    def read(self) -> FoundModels:
        """What the folders hold. Raises CatalogError if one of them cannot be listed."""
        found, seen, known = FoundModels(), dict[str, Path](), dict[str, Branch]()
        times: dict[Path, ChangeTimes] = {}
        try:
            for root in self.roots:
                listing = _listed(root)
                times[root] = listing.times
                entries = self._entries(root, listing, found)
                if earlier := seen.get(listing.real):
                    found.warnings.append(f"{self._flag} {root} is the same folder as {earlier}: it is read once")
                    continue
                seen[listing.real] = root
                branches = self._look(entries, root)
                known.update(zip((entry.path for entry in entries), branches, strict=True))
                in_root = [file for branch in branches for file in branch.files]
                found.warnings += [warning for branch in branches for warning in branch.warnings]
                add_models(found, root, in_root, is_first=len(seen) == 1)
                watched = [path for branch in branches for path in branch.folders]
                watched += [str(file.path) for file in in_root if file.problem]
                times[root] = ChangeTimes({**listing.times.times, **_times_of(watched).times}, anything_changed)
            self._branches = known
        finally:
            with self._lock:
                self._times, self._watched, self._is_current = times, ChangeTimes({}), True
                self._looked_at = time.monotonic()
        return found

    def watch(self, files: Iterable[Path]) -> None:
        """Look at these files too: they could not be read, and may be on their way here."""
        watched = _times_of(str(path) for path, _ in zip(files, range(MAX_WATCHED_FILES), strict=False))
        with self._lock:
            self._watched = watched

    def is_current(self, max_age: float = 1.0) -> bool:
        """Whether the folders still hold what they held. The disk is not looked at if it was within the last `max_age`
        seconds."""
        with self._lock:
            if not self._is_current or time.monotonic() - self._looked_at < max_age:
                return self._is_current
            self._looked_at = time.monotonic()
            parts = [*self._times.items(), (None, self._watched)]
        looked = patience.each(lambda part: part[1].are_current(), parts, key=lambda part: f"folder {part[0]}")
        is_current = all(looked)  # a disk that hangs counts as unchanged
        with self._lock:
            self._is_current = self._is_current and is_current
            return self._is_current

    def _entries(self, root: Path, listing: _Listing, found: FoundModels) -> list[os.DirEntry[str]]:
        """The entries of one folder. At the start a disk or share that has gone leaves its folder empty."""
        entries = listing.entries
        if isinstance(entries, list):
            return entries
        is_hung = isinstance(entries, patience.Hung)
        if self._branches is None and (is_hung or getattr(entries, "errno", None) in files.LOST):
            reason = files.hung(root) if isinstance(entries, patience.Hung) else files.problem_of(root, entries)
            found.warnings.append(f"{self._flag} {reason}. Its models are left out")
            return []
        if isinstance(entries, patience.Hung):
            raise CatalogError(f"{self._flag} {files.hung(root)}")
        reason = getattr(entries, "strerror", None) or str(entries)
        raise CatalogError(f"{self._flag} {root}: {reason}; name a folder that holds .gguf files") from entries

    def _look(self, entries: Sequence[os.DirEntry[str]], root: Path) -> list[Branch]:
        known = self._branches or {}
        looked = patience.each(lambda entry: look(entry, root), entries, key=lambda entry: entry.path)
        branches = []
        for entry, one in zip(entries, looked, strict=True):
            branch = _hung(entry) if isinstance(one, patience.Hung) else one
            branches.append(known.get(entry.path, branch) if branch.is_lost else branch)
        return branches


def _times_of(paths: Iterable[str]) -> ChangeTimes:
    (times,) = patience.each(lambda some: ChangeTimes.of(some, anything_changed), [tuple(paths)], key=hash)
    return ChangeTimes({}) if isinstance(times, patience.Hung) else times


def _listed(root: Path) -> _Listing:
    (listing,) = patience.each(_scan, [root], key=str)
    nothing = ChangeTimes({})  # is current until the disk comes back
    return _Listing(nothing, os.path.abspath(root), listing) if isinstance(listing, patience.Hung) else listing


def _scan(root: Path) -> _Listing:
    times = ChangeTimes.of([str(root)], anything_changed)  # before it is listed, so that no change is missed
    try:
        with os.scandir(root) as entries:
            return _Listing(times, os.path.realpath(root), sorted(entries, key=lambda entry: entry.name))
    except (OSError, ValueError) as error:
        return _Listing(times, os.path.abspath(root), error)


def _hung(entry: os.DirEntry[str]) -> Branch:
    path, is_folder = Path(entry.path), not is_gguf(entry.name)
    return Branch(
        [FoundFile(path, (entry.name,) if is_folder else (), files.hung(path), is_folder=is_folder)], is_lost=True
    )
