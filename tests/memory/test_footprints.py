"""What models took is remembered."""

from __future__ import annotations

import logging
import subprocess
import sys
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


def test_routers_that_share_a_file_keep_each_others_footprints(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    one, two = Footprints(path), Footprints(path)
    one.put("a", Footprint(5, 1, 2))
    two.put("b", Footprint(7, 2, 3))
    one.put("c", Footprint(1, 1, 1))
    two.put("a", Footprint(4, 1, 9))
    assert {key: Footprints(path).get(key) for key in "abc"} == {
        "a": Footprint(5, 1, 9),
        "b": Footprint(7, 2, 3),
        "c": Footprint(1, 1, 1),
    }
    assert two.get("c") == Footprint(1, 1, 1)  # what another router has learned serves this one too
    assert one.get("b") == Footprint(7, 2, 3)


WRITER = """
import sys
from pathlib import Path
from router.memory.footprints import Footprint, Footprints
kept = Footprints(Path(sys.argv[1]))
sys.stdin.readline()
for n in range(20):
    kept.put(f"{sys.argv[2]}{n}", Footprint(n + 1, 1, n))
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdin=subprocess.PIPE) for name in "abc"
    ]
    for writer in writers:
        assert writer.stdin
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    assert [writer.communicate() and writer.returncode for writer in writers] == [0, 0, 0]
    kept = Footprints(path)
    assert all(kept.get(f"{name}{n}") == Footprint(n + 1, 1, n) for name in "abc" for n in range(20))


def test_a_file_spoilt_meanwhile_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # B-T8
    path = tmp_path / "f.json"
    kept = Footprints(path)
    kept.put("a", Footprint(1, 1, 1))
    path.write_text("{")
    kept.put("b", Footprint(1, 1, 1))
    assert Footprints(path).get("a")
    assert (tmp_path / "f.json.bad").read_text() == "{"


def test_a_lock_that_is_never_given_back_costs_no_footprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprints, "LOCK_PATIENCE_S", 0.01)
    path = tmp_path / "f.json"
    with footprints._locked(tmp_path):
        Footprints(path).put("a", Footprint(1, 1, 1))
    assert Footprints(path).get("a")
