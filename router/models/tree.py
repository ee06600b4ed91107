"""What lies below one entry of a models folder: GGUF files, and what is in the way of reading some of them.

The one idea: nothing that lies there raises. A link that leads nowhere, a folder that may not be read, or a file that
is no regular one is returned with its `problem`, and costs itself alone. Links to folders are followed, but not back to
a folder that they lie in. `folder` calls this in threads, since it blocks, and makes models of what is found.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from router import files
from router.models import kinds
from router.models.shards import SHARD, is_gguf

MAX_DEPTH = 5  # folders below the models folder
MAX_ENTRIES = 20_000  # below one entry of the models folder
# Folders that systems make by themselves, and that nobody but them can read.
_OF_SYSTEMS = frozenset(("lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "__MACOSX"))
# The ending of a file that is something else than a model. `Qwen2.5-7B` has none.
_OTHER_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}$")
# How the file of a draft model begins.
DRAFT_PREFIXES = ("mtp-", "dspark-", "dflash-", "eagle3-")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A GGUF file, or a folder that cannot be read (`is_folder`).

    `parts` are the names of the folders between the models folder and the file; for a folder also its own.
    `problem` is why it cannot be read, as a sentence; None if nothing is known to be wrong.
    `kind` is what it is if it has been looked into and is no language model.
    """

    path: Path
    parts: tuple[str, ...]
    problem: str | None = None
    kind: str | None = None
    is_folder: bool = False


@dataclass(slots=True)
class Branch:
    """What lies below one entry.

    `folders` are those whose times change when files come or go.
    `warnings` is what is left out for other reasons than a problem of one file.
    `is_lost`: a part of it cannot be read, because its disk or share has gone.
    """

    files: list[FoundFile] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left: int = MAX_ENTRIES
    is_lost: bool = False


def look(entry: os.DirEntry[str], root: Path) -> Branch:
    """What lies below an entry of the models folder `root`, or the entry itself if it is a file. Blocks. Never
    raises."""
    branch = Branch()
    if entry.name not in _OF_SYSTEMS:
        _visit(branch, entry, (), (str(root),))
        branch.files = list(_looked_into(branch.files))
    return branch


def is_companion(name: str) -> bool:
    """Whether a file's name says that it belongs to the model beside it: a projector, or a draft model."""
    return is_projector(name) or is_draft(name)


def is_projector(name: str) -> bool:
    return "mmproj" in name.lower()


def is_draft(name: str) -> bool:
    return name.lower().startswith(DRAFT_PREFIXES)


# `above` are the folders that an entry lies in.


def _visit(branch: Branch, entry: os.DirEntry[str], parts: tuple[str, ...], above: tuple[str, ...]) -> None:
    branch.left -= 1
    is_hidden = entry.name.startswith(".")
    try:
        if entry.is_dir(follow_symlinks=False):
            is_folder, status = True, None
        elif entry.is_file(follow_symlinks=False):
            is_folder, status = False, None
        else:  # a link, or neither file nor folder
            status = os.stat(entry.path)
            is_folder = stat.S_ISDIR(status.st_mode)
    except (OSError, ValueError) as error:
        branch.is_lost |= getattr(error, "errno", None) in files.LOST
        is_gone = isinstance(error, FileNotFoundError) and not os.path.islink(entry.path)
        may_be_model = is_gguf(entry.name) or not _OTHER_ENDING.search(entry.name)
        if may_be_model and not is_hidden and not is_gone:
            problem = files.problem_of(entry.path, error)
            is_folder = not is_gguf(entry.name)
            own = (*parts, entry.name) if is_folder else parts
            branch.files.append(FoundFile(Path(entry.path), own, problem, is_folder=is_folder))
        return
    if is_folder:
        _enter(branch, entry, (*parts, entry.name), above)
    elif is_gguf(entry.name) and not is_hidden:
        special = files.kind_of(status) if status else None
        wrong = f"{entry.path} is {special}, not a file: put the model's file there, or remove it" if special else None
        branch.files.append(FoundFile(Path(entry.path), parts, wrong))


def _enter(branch: Branch, entry: os.DirEntry[str], parts: tuple[str, ...], above: tuple[str, ...]) -> None:
    try:
        if entry.is_symlink() and any(os.path.samefile(entry.path, folder) for folder in above):
            branch.warnings.append(f"{entry.path} leads back to a folder that it lies in: it is not followed")
            return
        with os.scandir(entry.path) as scan:
            entries = sorted(scan, key=lambda one: one.name)
    except FileNotFoundError:
        return  # it has just been removed
    except (OSError, ValueError) as error:
        branch.is_lost |= getattr(error, "errno", None) in files.LOST
        branch.files.append(FoundFile(Path(entry.path), parts, files.problem_of(entry.path, error), is_folder=True))
        return
    branch.folders.append(entry.path)
    goes_deeper = len(parts) < MAX_DEPTH and not entry.name.startswith(".")
    for below in entries:
        if branch.left <= 0:
            branch.warnings.append(f"{entry.path} is not read to its end: there are too many files for a models folder")
            return
        is_file = _is_file(below)
        if is_file and not is_gguf(below.name):
            branch.left -= 1
        elif is_file or goes_deeper or is_gguf(below.name):
            _visit(branch, below, parts, (*above, entry.path))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file(follow_symlinks=False)
    except OSError:
        return False  # `_visit` finds out what is wrong


def _looked_into(found: list[FoundFile]) -> Iterator[FoundFile]:
    """The files, with the kinds of those whose names do not tell enough: those that lie beside another model."""
    beside: dict[tuple[str, ...], int] = {}
    for file in found:
        if _may_be_model(file):
            beside[file.parts] = beside.get(file.parts, 0) + 1
    for file in found:
        is_one_of_several = bool(file.parts) and beside.get(file.parts, 0) > 1
        if _may_be_model(file) and (is_one_of_several or kinds.suspected(file.path.name)):
            kind = kinds.peek(file.path)
            yield FoundFile(file.path, file.parts, kind=kind) if kind else file
        else:
            yield file


def _may_be_model(file: FoundFile) -> bool:
    shard = SHARD.fullmatch(file.path.name)
    is_first = shard is None or int(shard[2]) == 1
    return is_first and not file.problem and not file.is_folder and not is_companion(file.path.name)
