"""The preset files of one router: which they are, and what of a new reading is believed.

`--models-preset` names files, and folders whose `*.ini` are read in the order of their names. A pipe, as of
`<(program)`, can be read once: its text is kept. A file that was emptied, or is still being written, never takes its
models away in silence: then the reading fails, and everything stays as it was. `models = none` says that a file is
meant to have none.
Called by `sources`, at the start and on every reload; a reading blocks.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from router import files
from router.engine.flags import FlagTable
from router.errors import PresetError
from router.models import presets
from router.models.ini import DEFAULTS, read_sections
from router.models.presets import NO_PRESETS, PresetFile

log = logging.getLogger("router.presets")

# One file or folder, several, or none.
Places = Path | Sequence[Path] | None
MAX_FILES = 1000
# A file whose last line has no end may be half of what is being written, if it was written so shortly ago.
SETTLED_S = 0.5
PATIENCE_S = 3.0  # with a file that does not settle


class Reading(NamedTuple):
    """What the files said, and the models of each."""

    file: PresetFile
    names: Mapping[Path, tuple[str, ...]]


class PresetFiles:
    """`foreign` files come from the hub. `environ` has the variables that values refer to.

    ::

        mine = PresetFiles([Path("base.ini"), Path("conf.d")], table, os.environ)
        mine.read().presets
    """

    def __init__(self, places: Places, table: FlagTable, environ: Mapping[str, str], *, foreign: bool = False) -> None:
        self.places = places_of(places)
        self.table, self._environ, self._foreign = table, environ, foreign
        self._kept: dict[Path, str] = {}  # what came from pipes
        self.reading: Reading | None = None  # the last one

    def __repr__(self) -> str:
        return f"<PresetFiles {', '.join(map(str, self.places)) or 'none'}>"

    def read(self) -> PresetFile:
        """All files as one. Raises PresetError for the first mistake, for a file that cannot be read, and for one that
        has lost all of its models."""
        if not self.places:
            self.reading = Reading(NO_PRESETS, {})
            return NO_PRESETS
        parts = [(path, self._text(path)) for path in paths_of(self.places)]
        file, problems = presets.parse_all(parts, self.table, foreign=self._foreign, environ=self._environ, warns=True)
        for (path, _), mine in zip(parts, problems, strict=True):
            presets.raise_first([problem for problem in mine if not problem.is_warning], path)
        names = {path: _names(text) for path, text in parts}
        if not file.is_empty_on_purpose:
            self._refuse_emptied(names)
        for path in self._names.keys() - names.keys():
            log.warning("%s is gone, and with it %s", path, ", ".join(self._names[path]) or "its defaults")
        for (path, _), mine in zip(parts, problems, strict=True):
            for problem in mine:
                log.warning("%s:%d: %s", path, problem.line, problem.message)
        self.reading = Reading(file, names)
        return file

    @property
    def file(self) -> PresetFile:
        """What was read last."""
        return self.reading.file if self.reading else NO_PRESETS

    @property
    def _names(self) -> Mapping[Path, tuple[str, ...]]:
        return self.reading.names if self.reading else {}

    def _refuse_emptied(self, now: Mapping[Path, tuple[str, ...]]) -> None:
        hint = "if there are to be none, write models = none into it"
        for path, before in self._names.items():
            if before and path in now and not now[path]:
                raise PresetError(f"there is no model in it any more, so {_and_stay(before)}; {hint}", path=path)
        before = tuple(name for names in self._names.values() for name in names)
        if before and not any(now.values()):
            raise PresetError(
                f"there is no preset file any more, so {_and_stay(before)}; if there are to be none, put a file with "
                "models = none there",
                path=self.places[0],
            )

    def _text(self, path: Path) -> str:
        if path in self._kept:
            return self._kept[path]
        if files.is_inherited(path):
            self._kept[path] = presets.read_text(path)
            return self._kept[path]
        return self._settled_text(path) if path in self._names else presets.read_text(path)

    def _settled_text(self, path: Path) -> str:
        """The text of a file that somebody may be writing now. Raises PresetError if it does not settle."""
        end = time.monotonic() + PATIENCE_S
        while True:
            before = _stamp(path)
            text = presets.read_text(path)
            after = _stamp(path)
            is_whole = not text or text.endswith("\n") or (after is not None and _age(after) >= SETTLED_S)
            if before == after and is_whole:
                return text
            if time.monotonic() >= end:
                raise PresetError("the file is being written: read it again when it is complete", path=path)
            time.sleep(SETTLED_S / 5)


def places_of(places: Places) -> tuple[Path, ...]:
    return (places,) if isinstance(places, Path) else tuple(places or ())


def paths_of(places: Sequence[Path]) -> Iterator[Path]:
    """The files, in the order in which they are read; each once. Raises PresetError for a folder that cannot be
    listed."""
    seen: set[Path] = set()
    for place in places:
        for path in files_in(place) if place.is_dir() else [place]:
            if path not in seen:
                seen.add(path)
                yield path
    if len(seen) > MAX_FILES:
        raise PresetError(f"there are more than {MAX_FILES} preset files", path=places[0])


def files_in(folder: Path) -> list[Path]:
    """The preset files of a folder, by name. Hidden ones are what editors leave. Raises PresetError."""
    try:
        names = sorted(
            entry.name for entry in os.scandir(folder) if entry.name.endswith(".ini") and entry.name[0] != "."
        )
    except OSError as error:
        raise PresetError(f"cannot list the folder of preset files: {error.strerror}", path=folder) from error
    if not names:
        log.warning("%s: there is no file in it whose name ends with .ini", folder)
    return [folder / name for name in names]


def _names(text: str) -> tuple[str, ...]:
    sections, _ = read_sections(text)
    return tuple(dict.fromkeys(section.name for section in sections if section.name != DEFAULTS))


def _and_stay(names: Sequence[str]) -> str:
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{listed} {'stays' if len(names) == 1 else 'stay'} as {'it was' if len(names) == 1 else 'they were'}"


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _age(stamp: tuple[int, int, int]) -> float:
    """Seconds since the file was written; long ago if the clocks differ."""
    age = time.time() - stamp[2] / 1e9
    return age if age >= 0 else SETTLED_S
