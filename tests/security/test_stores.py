"""Any program may spoil what the router keeps on disk. A spoilt file is put aside, and the router starts. B-T8

The router's stores are the footprints of models (a file) and the run folder. In the run folder, only the existence of a
lock file and the kernel's lock on it matter; its content is not read. Refs and links in the cache of the hub may come
from other programs, and are read with the same suspicion.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from router.hub import cache as hub
from router.hub.names import Name
from router.memory.footprints import MAX_FILE_BYTES, Footprint, Footprints
from router.node.run_directory import RunDirectory
from tests.conftest import Starter

GOOD = '{"gpu": 1, "gpus": 1, "host": 1}'


def text(said: str | bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(said if isinstance(said, bytes) else said.encode()))


def void(_: object) -> None:
    pass


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def full_folder(path: Path) -> None:
    path.mkdir()
    (path / "x").touch()


SPOILT: dict[str, Callable[[Path], None]] = {
    "nothing": text(""),
    "a list": text("[]"),
    "a number": text("1e999"),
    "a row without end": text('{"a": {"gpu": 1e999, "gpus": 1, "host": 1}}'),
    "a row of no number": text('{"a": {"gpu": NaN, "gpus": 1, "host": 1}}'),
    "a row that is a list": text('{"a": [1, 1, 1]}'),
    "a row of text": text('{"a": {"gpu": "1", "gpus": 1, "host": 1}}'),
    "a row of lists": text('{"a": {"gpu": [], "gpus": {}, "host": null}}'),
    "less than nothing": text('{"a": {"gpu": -1, "gpus": 1, "host": 1}}'),
    "more than there is": text(f'{{"a": {{"gpu": {10**30}, "gpus": 1, "host": 1}}}}'),
    "digits": text(f'{{"a": {{"gpu": {"9" * 10_000}, "gpus": 1, "host": 1}}}}'),
    "deep lists": text("[" * 200_000),
    "deep objects": text('{"a":' * 200_000),
    "a deep row": text(f'{{"a": {"[" * 100_000}{"]" * 100_000}}}'),
    "no text": text(b"\xff\xfe\x00\x01\x80"),
    "UTF-16": text('{"a": 1}'.encode("utf-16")),
    "NULs": text(b"\0" * 4096),
    "cut": text(f'{{"a": {GOOD}'),
    "two": text(f'{{"a": {GOOD}}} {{"b": {GOOD}}}'),
    "too large": text(" " * (MAX_FILE_BYTES + 1)),
    "a terabyte of holes": sparse,
    "a folder": lambda path: path.mkdir(),
    "a folder with files": full_folder,
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_spoilt_footprints_are_put_aside(  # B-T8
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, aside = tmp_path / "footprints.json", tmp_path / "footprints.json.bad"
    for _ in range(2):  # also where there is one aside already
        SPOILT[kind](path)
        caplog.clear()
        kept = Footprints(path)
        assert len(caplog.records) == 1
        assert str(path) in caplog.text
        if not aside.is_dir() or not path.exists():
            assert str(aside) in caplog.text
            assert os.path.lexists(aside)
            assert not os.path.lexists(path)
        kept.put("a", Footprint(1, 1, 1))
        assert kept.get("a")
        if not path.is_dir():
            caplog.clear()
            assert Footprints(path).get("a") == Footprint(1, 1, 1)
            assert not caplog.records
            path.unlink()
        assert not [each for each in tmp_path.iterdir() if each not in (path, aside)]


def test_valid_footprints_of_other_programs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text('{"a": {"gpu": 5, "gpus": 1, "host": 2, "more": [1]}}')
    assert Footprints(path).get("a") == Footprint(5, 1, 2)
    path.write_text(f"{{{', '.join(f'{json.dumps(str(number))}: {GOOD}' for number in range(5000))}}}")
    kept = Footprints(path)
    assert (kept.get("3999"), kept.get("4000")) == (None, Footprint(1, 1, 1))


def test_router_starts_with_spoilt_stores(routers: Starter, tmp_path: Path, fake: str, tiny_models: Path) -> None:
    """A whole router with a spoilt file of footprints."""
    folder = tmp_path / "xdg" / "llama-router"
    folder.mkdir(parents=True)
    (folder / "footprints.json").write_text('{"a": {"gpu": 1e999, "gpus": 1, "host": ' + "[" * 100_000)
    flags = ("--engine", fake, "--models-dir", str(tiny_models))
    router = routers(*flags, XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert router.chat("tiny-a").status_code == 200
    assert (folder / "footprints.json.bad").exists()
    assert "no footprints are known" in router.log


LOCKS: dict[str, Callable[[Path], None]] = {
    "text": text("not what was there"),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to a file": lambda path: path.symlink_to("/etc/passwd"),
}


@pytest.mark.parametrize("kind", LOCKS)
def test_leftovers_of_other_routers_may_be_anything(tmp_path: Path, kind: str) -> None:  # B-T8
    left = tmp_path / "left"
    left.mkdir(mode=0o700)
    LOCKS[kind](left / "lock")
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "link").symlink_to(left)
    RunDirectory.open(tmp_path).close()
    assert left.exists() == (kind != "text")
    assert Path("/etc/passwd").exists()


def test_refs_of_the_cache_may_be_anything(tmp_path: Path) -> None:  # B-T8
    repo = tmp_path / "models--user--m"
    snapshot = repo / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "m-Q8_0.gguf").write_bytes(b"x")
    refs = repo / "refs"
    refs.mkdir()
    (refs / "main").write_text("c" * 40)
    (refs / "odd").write_bytes(b"\xff\0" * 100)
    (refs / "self").symlink_to(refs / "self")
    (refs / "list").write_text("[" * 100_000)
    (refs / "up").write_text("../../..")
    assert [entry.name for entry in hub.Cache(tmp_path).entries()] == ["user/m:Q8_0"]
    assert hub.find(tmp_path, str(Name.parse("user/m:Q8_0@odd"))) is None
