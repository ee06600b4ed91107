from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from router.errors import CatalogError
from router.hub.change_times import CLOCK_TICK_NS
from router.models.folders import ModelFolders
from tests.models.rig import put
from tests.waiting import until


def settled(*paths: Path) -> None:
    """As if they had not changed for a while."""
    end = time.time_ns() + 2 * CLOCK_TICK_NS
    until(lambda: time.time_ns() > end)
    for path in paths:
        assert path.exists()


def read(*roots: Path) -> ModelFolders:
    settled(*roots)
    folders = ModelFolders(roots)
    folders.read()
    assert folders.is_current(0)
    return folders


@pytest.mark.parametrize("place", ["new.gguf", "a/new.gguf", "a/b/new.gguf", "new/x.gguf"])
def test_a_new_file_is_seen(models: Path, tmp_path: Path, place: str) -> None:  # B-F2
    put(models / "old.gguf")
    put(models / "a" / "b" / "m.gguf")
    folders = read(models, put(tmp_path / "more" / "x.gguf").parent)
    put(models / place)
    assert folders.is_current(), "the disk is looked at once a second"
    assert not folders.is_current(0)
    assert not folders.is_current(), "until it is read again"
    folders.read()
    settled()
    folders.read()
    assert folders.is_current(0)


def test_a_file_that_goes_is_seen(models: Path) -> None:  # B-F2
    gone = put(models / "a" / "m.gguf")
    folders = read(models)
    gone.unlink()
    assert not folders.is_current(0)


def test_files_that_could_not_be_read_are_looked_at_again(models: Path, tmp_path: Path) -> None:  # B-F2
    growing = put(models / "growing.gguf")
    (models / "link.gguf").symlink_to(tmp_path / "target")
    folders = read(models)
    settled()
    folders.watch([growing])
    assert folders.is_current(0)
    with growing.open("ab") as file:
        file.write(b"more")
    assert not folders.is_current(0)
    folders = read(models)
    (tmp_path / "target").write_bytes(b"x")
    assert not folders.is_current(0), "the target of a link that led nowhere is there"


@pytest.mark.skipif(sys.platform == "win32", reason="rights")
def test_rights_that_change_are_seen(models: Path) -> None:  # B-F2
    folder = put(models / "a" / "m.gguf").parent
    folders = read(models)
    os.chmod(folder, 0o755 if folder.stat().st_mode & 0o777 != 0o755 else 0o750)
    assert not folders.is_current(0)


def test_a_folder_that_vanishes_costs_its_models_or_is_an_error(models: Path, tmp_path: Path) -> None:  # B-F1
    put(models / "a" / "m.gguf")
    put(models / "b.gguf")
    other = put(tmp_path / "other" / "x.gguf").parent
    folders = read(models, other)
    shutil.rmtree(models / "a")
    assert list(folders.read().models) == ["b", "x"]
    shutil.rmtree(other)
    assert not folders.is_current(0)
    settled()
    with pytest.raises(CatalogError, match="other: No such file"):
        folders.read()
    assert folders.is_current(0), "it is told once, until something changes again"
    put(tmp_path / "other" / "x.gguf")
    assert not folders.is_current(0)


def test_no_folder_is_empty_and_current() -> None:
    assert not ModelFolders(None)
    assert ModelFolders(None).read().models == {}
    assert ModelFolders(None).is_current(0)
