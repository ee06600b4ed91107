"""Pages on disk, one folder for each build of an engine, so that an engine shows its page once, not at each start.

The one idea: nothing on disk is believed. A file lies under the digest of its content, so no name of a page becomes a
name on disk. A folder that another user could have written, or of which a byte is wrong, does not exist. A page is
written beside its place and then renamed: another router finds all of it, or nothing. `chat_page` calls it in threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from router import files as disk
from router.page import names
from router.page.files import MAX_FILES, MAX_PACKED_BYTES, MAX_PAGE_BYTES, BadFile, PageFile

INDEX = "page.json"
MAX_INDEX_BYTES = 1 << 18
KEPT_PAGES = 3  # of the builds that were used last: people go back and forth between two
STALE_S = 3600.0  # what a router that was killed has left half written goes after this time
_BUILD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", re.ASCII)
_HALF = re.compile(r"\.half-[0-9a-f]+")


def default_folder(environ: Mapping[str, str]) -> Path:
    """The folder in the user's cache."""
    cache = environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else disk.home() / ".cache") / "llama-router" / "page"


def folder_name(version: str, identity: object) -> str:
    """The name of a build's folder: what its version says, for people, and which file it is."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", version).strip("-.")[:60] or "engine"
    return f"{words}-{hashlib.sha256(repr((version, identity)).encode()).hexdigest()[:16]}"


class Shelf:
    """The pages below `folder`. All methods block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"<Shelf {self.folder}>"

    def get(self, build: str) -> Mapping[str, PageFile] | None:
        """The page of this build, empty if it is known to have none; None if there is no whole and sound copy."""
        place = self._place(build)
        try:
            _check_private(place)
            found = _read_page(place)
        except (OSError, ValueError, RecursionError):
            return None
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(place)  # used just now
        return found

    def put(self, build: str, page: Mapping[str, PageFile]) -> None:
        """Keep this page, in the place of a copy that is not sound, and let old ones go. Raises OSError."""
        place = self._place(build)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        half = self.folder / f".half-{secrets.token_hex(8)}"
        half.mkdir(mode=0o700)
        try:
            for digest, packed in {file.digest: file.packed for file in page.values()}.items():
                _write(half / digest, packed)
            table = {name: {"sha256": file.digest, "headers": dict(file.headers)} for name, file in page.items()}
            _write(half / INDEX, json.dumps({"files": table}).encode())
            try:
                half.rename(place)
            except OSError:
                if self.get(build) is None:  # else another router was quicker
                    _remove(place)
                    half.rename(place)
        finally:
            shutil.rmtree(half, ignore_errors=True)
        self._let_go(place)

    def _place(self, build: str) -> Path:
        assert _BUILD.fullmatch(build)
        return self.folder / build

    def _let_go(self, newest: Path) -> None:
        """Remove the pages of builds that were not used for long, and what was left half written."""
        kept: list[tuple[float, Path]] = []
        for path in list(self.folder.iterdir()):
            try:
                status = path.lstat()
            except FileNotFoundError:  # another router was quicker
                continue
            if not stat.S_ISDIR(status.st_mode) or path == newest:
                continue
            if _HALF.fullmatch(path.name) and status.st_mtime < time.time() - STALE_S:
                _remove(path)
            elif _BUILD.fullmatch(path.name) and os.path.lexists(path / INDEX):
                kept.append((status.st_mtime, path))
        for _, path in sorted(kept, reverse=True)[KEPT_PAGES - 1 :]:
            _remove(path)


def _check_private(place: Path) -> None:
    """Raises OSError if it is no folder, or if another user could have written in it."""
    status = os.lstat(place)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(place)
    if os.name == "posix" and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise PermissionError(place)


def _read_page(place: Path) -> Mapping[str, PageFile]:
    """Raises OSError and ValueError, also for what is not as it was written."""
    match json.loads(_read(place / INDEX, MAX_INDEX_BYTES)):
        case {"files": dict(table)} if len(table) <= MAX_FILES:
            pass
        case _:
            raise BadFile(f"{place} has no table of files")
    page: dict[str, PageFile] = {}
    size = 0
    for name, row in table.items():
        match row:
            case {"sha256": str(digest), "headers": dict(headers)} if re.fullmatch(r"[0-9a-f]{64}", digest):
                pass
            case _:
                raise BadFile(f"{place} has a wrong row")
        packed = _read(place / digest, MAX_PACKED_BYTES)
        size += len(packed)
        words = {key: value for key, value in headers.items() if isinstance(value, str)}
        file = PageFile.make(name, packed, words)
        if file.digest != digest or size > MAX_PAGE_BYTES:
            raise BadFile(f"{place} is spoilt")
        page[name] = file
    if page and names.INDEX not in page:
        raise BadFile(f"{place} has no index")
    return page


def _read(path: Path, most: int) -> bytes:
    if stat.S_ISLNK(os.lstat(path).st_mode):
        raise OSError(f"{path} is a link")
    return disk.read(path, most)


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)


def _remove(path: Path) -> None:
    """Whatever it is, and whatever lies in it. It is renamed first: a half removed page is no page."""
    away = path.with_name(f".half-{secrets.token_hex(8)}")
    try:
        path.rename(away)
    except FileNotFoundError:
        return
    if away.is_dir() and not away.is_symlink():
        shutil.rmtree(away, ignore_errors=True)
    else:
        away.unlink(missing_ok=True)
