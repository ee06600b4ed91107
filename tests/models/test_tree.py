from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from router.models.describe import describe
from router.models.folders import ModelFolders
from router.models.tree import MAX_DEPTH
from tests.models.rig import Build, model_names, put

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")


@pytest.fixture
def odd(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good model, and with much that is none."""
    put(models / "good.gguf")
    (models / "dangling.gguf").symlink_to(models / "gone")
    (models / "looping.gguf").symlink_to("looping.gguf")
    (models / "looping-folder").symlink_to("looping-folder")
    (models / "gone-disk").symlink_to("/nowhere/models")
    (models / "notes.txt").symlink_to("/nowhere/notes.txt")
    (models / "zero.gguf").symlink_to("/dev/zero")
    os.mkfifo(models / "pipe.gguf")
    monkeypatch.chdir(models)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket.gguf")
    (models / "sub").mkdir()
    (models / "sub" / "back").symlink_to(models)
    (models / "sub" / "x.gguf").symlink_to("x.gguf")
    (models / "empty-folder").mkdir()
    (models / ".hidden.gguf").symlink_to("/nowhere")
    return models


def test_each_odd_entry_has_its_own_problem(build: Build, odd: Path) -> None:  # B-F1
    found = build(models_dir=odd)
    problems = {spec.name: spec.problem for spec in found.models}
    assert problems.pop("good") is None
    words = {
        "dangling": f"{odd}/dangling.gguf is a link to {odd}/gone, which is not there",
        "gone-disk": "is a link to /nowhere/models, which is not there",
        "looping": "leads back to itself",
        "looping-folder": "leads back to itself",
        "pipe": "pipe.gguf is a named pipe, not a file",
        "socket": "socket.gguf is a socket, not a file",
        "sub": "sub/x.gguf is a link that leads back to itself",
        "zero": "zero.gguf is a device, not a file",
    }
    assert sorted(problems) == sorted(words)
    for name, problem in problems.items():
        assert words[name] in (problem or "")
        spec = found.resolve(name)
        assert (spec.model_path, spec.size_bytes, describe(spec).info.problem) == (None, 0, problem)


def test_links_to_folders_are_followed_but_not_back(models: Path, tmp_path: Path) -> None:  # B-F1
    put(tmp_path / "elsewhere" / "real" / "m.gguf")
    put(models / "here" / "h.gguf")
    (models / "linked").symlink_to(tmp_path / "elsewhere")
    (models / "here" / "up").symlink_to("..")
    (models / "here" / "self").symlink_to(".")
    (tmp_path / "elsewhere" / "real" / "again").symlink_to(tmp_path / "elsewhere")
    found = ModelFolders(models).read()
    assert list(found.models) == ["here", "linked/real"]
    assert len(found.warnings) == 3
    assert all("leads back to a folder that it lies in" in warning for warning in found.warnings)


def test_folders_are_searched_to_a_depth(models: Path) -> None:  # B-F2
    folder = models
    for level in range(40):
        folder = folder / f"f{level}"
        put(folder / "m.gguf")
    assert len(ModelFolders(models).read().models) == MAX_DEPTH


def test_folders_of_the_system_and_other_files_are_no_models(models: Path) -> None:  # B-F2
    for name in ("lost+found/x.gguf", "m/config.json", "m/tokenizer.model", "readme.md", "m.gguf.part", "x.bin"):
        put(models / name)
    assert not ModelFolders(models).read().models


def test_the_files_of_a_preset_have_the_same_problems(build: Build, odd: Path) -> None:  # B-F1
    names = ("dangling", "looping", "pipe", "zero")
    preset = "\n".join(f"[own-{name}]\nmodel = {odd / name}.gguf" for name in names)
    found = build(preset=f"{preset}\n[fine]\nmodel = {odd}/good.gguf\n[folder]\nmodel = {odd}")
    assert model_names(found) == [*(f"own-{name}" for name in names), "fine", "folder"]
    problems = [found.resolve(f"own-{name}").problem or "" for name in names]
    assert [
        next(words for words in ("which is not there", "leads back", "is a named pipe", "is a device") if words in one)
        for one in problems
    ] == ["which is not there", "leads back", "is a named pipe", "is a device"]
    assert found.resolve("fine").problem is None
    assert "is a folder, not a file" in (found.resolve("folder").problem or "")
