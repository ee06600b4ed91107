"""Pages on disk: whole, private and sound, or not there."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from router.page import shelf
from router.page.files import PageFile, pack
from router.page.shelf import Shelf, default_folder, folder_name

PAGE = {
    name: PageFile.make(name, pack(content), {"cross-origin-opener-policy": "same-origin"})
    for name, content in (("index.html", b"<p>"), ("_app/a.js", b"1"), ("copy.js", b"1"))
}


@pytest.fixture
def kept(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path / "page")
    made.put("b1", PAGE)
    return made


def test_a_page_comes_back_as_it_was(kept: Shelf) -> None:
    assert Shelf(kept.folder).get("b1") == PAGE
    assert kept.get("b2") is None
    kept.put("b2", {})  # an engine without a page is known as such
    assert kept.get("b2") == {}
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept.folder.rglob("*"))


def test_no_name_of_a_page_is_a_name_on_disk(kept: Shelf) -> None:
    assert {path.name for path in (kept.folder / "b1").iterdir()} == {
        "page.json",
        *(file.digest for file in PAGE.values()),
    }


def spoil(place: Path, how: str) -> None:
    index, file = place / "page.json", place / PAGE["index.html"].digest
    table = json.loads(index.read_text())
    match how:
        case "byte":
            file.write_bytes(pack(b"<q>"))
        case "gone":
            file.unlink()
        case "link":
            file.rename(place / "elsewhere")
            file.symlink_to(place / "elsewhere")
        case "folder":
            file.unlink()
            file.mkdir()
        case "no index":
            index.unlink()
        case "no json":
            index.write_text("{")
        case "deep":
            index.write_text("[" * 100_000)
        case "no table":
            index.write_text("[]")
        case "name":
            table["files"]["../x.js"] = table["files"]["copy.js"]
            index.write_text(json.dumps(table))
        case "digest":
            table["files"]["copy.js"]["sha256"] = "../" * 20
            index.write_text(json.dumps(table))
        case "others":
            place.chmod(0o777)
        case "linked":
            place.rename(place.with_name("elsewhere"))
            place.symlink_to(place.with_name("elsewhere"))


HOWS = "byte gone link folder,no index,no json,deep,no table,name digest others linked"


@pytest.mark.parametrize(
    "how", [word for part in HOWS.split(",") for word in ([part] if part[:2] == "no" else part.split())]
)
def test_a_spoilt_page_does_not_exist_and_is_replaced(kept: Shelf, how: str) -> None:
    spoil(kept.folder / "b1", how)
    assert kept.get("b1") is None
    kept.put("b1", PAGE)
    assert kept.get("b1") == PAGE


def test_old_pages_go_and_half_ones_too(kept: Shelf) -> None:
    stranger = kept.folder / "stranger"
    stranger.mkdir()
    half = kept.folder / ".half-0a"
    half.mkdir()
    os.utime(half, (0, 0))
    os.utime(kept.folder / "b1", (0, 0))
    for number in range(2, 2 + shelf.KEPT_PAGES):
        kept.put(f"b{number}", PAGE)
        os.utime(kept.folder / f"b{number}", (number, number))
    assert {path.name for path in kept.folder.iterdir()} == {"stranger", "b2", "b3", "b4"}
    assert kept.get("b2")  # which makes it the one that was used last
    kept.put("b9", PAGE)
    assert "b3" not in {path.name for path in kept.folder.iterdir()}
    assert kept.get("b2")


def test_a_page_in_use_by_a_router_that_is_writing_stays(kept: Shelf) -> None:
    half = kept.folder / ".half-0a"
    half.mkdir()
    kept.put("b2", PAGE)
    assert half.exists()
    assert time.time() - half.stat().st_mtime < shelf.STALE_S


def test_several_routers_write_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(10):
                Shelf(tmp_path).put("b1", PAGE)
                assert Shelf(tmp_path).get("b1") == PAGE
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures
    assert [path.name for path in tmp_path.iterdir()] == ["b1"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Shelf(tmp_path / "file" / "page").put("b1", PAGE)


def test_where_and_under_which_name(tmp_path: Path) -> None:
    assert default_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "llama-router" / "page"
    first = folder_name("version: 11434 (0a1b2c3)/../x", (1, 2))
    assert first.startswith("version-11434-0a1b2c3-")
    assert first != folder_name("version: 11434 (0a1b2c3)/../x", (1, 3))
    assert shelf._BUILD.fullmatch(first)
    assert shelf._BUILD.fullmatch(folder_name("..." * 100, ()))
