"""What models took is remembered."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from router.memory import footprints
from router.memory.footprints import Footprint, Footprints, default_path, key_of


def test_footprints_survive_a_restart(tmp_path: Path) -> None:  # B-D7
    path = tmp_path / "deep" / "footprints.json"
    Footprints(path).put("a", Footprint(gpu=5, gpus=1, host=2))
    assert Footprints(path).get("a") == Footprint(5, 1, 2)
    assert Footprints(path).get("b") is None


def test_the_greatest_numbers_are_kept(tmp_path: Path) -> None:  # B-D7
    kept = Footprints(tmp_path / "f.json")
    for found in (Footprint(5, 1, 2), Footprint(4, 1, 3), Footprint(1, 2, 1), Footprint(0, 0, 1)):
        kept.put("a", found)
    assert kept.get("a") == Footprint(5, 2, 3)
    assert Footprints(tmp_path / "f.json").get("a") == Footprint(5, 2, 3)


def test_the_oldest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprints, "MAX_FOOTPRINTS", 2)
    kept = Footprints(tmp_path / "f.json")
    for key in ("a", "b", "a", "c"):
        kept.put(key, Footprint(1, 1, 1))
    assert [bool(kept.get(key)) for key in "abc"] == [True, False, True]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": 5}', '{"a": {"gpu": 1}}', '{"a": {"gpu": "x", "gpus": 1, "host": 1}}']
)
def test_damaged_file_is_replaced(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "f.json"
    path.write_text(text)
    kept = Footprints(path)
    assert "cannot be read" in caplog.text
    kept.put("a", Footprint(1, 1, 1))
    assert Footprints(path).get("a")


def test_unwritable_folder_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        kept = Footprints(tmp_path / "file" / "f.json")
        kept.put("a", Footprint(1, 1, 1))
    assert "cannot be written" in caplog.text
    assert kept.get("a")


def test_key_depends_on_file_flags_and_build(tmp_path: Path) -> None:  # B-D1
    path = tmp_path / "m.gguf"
    path.write_bytes(b"x")
    same, other = [key_of([path], ["-c", "1"], "b1") for _ in range(2)], key_of([path], ["-c", "2"], "b1")
    assert same[0] == same[1]
    assert len({same[0], other, key_of([path], ["-c", "1"], "b2")}) == 3
    path.write_bytes(b"xy")
    assert key_of([path], ["-c", "1"], "b1") != same[0]


def test_default_path_is_in_the_users_cache_folder(tmp_path: Path) -> None:
    assert default_path({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "llama-router" / "footprints.json"
    assert default_path({}).parts[-3:] == (".cache", "llama-router", "footprints.json")
