"""Several preset files as one, and what of a new reading is believed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from router.engine.flags import render
from router.errors import PresetError
from router.models.ini_files import PresetFiles, files_in
from router.models.presets import MAX_FILE_BYTES, PresetFile
from tests.models.rig import TABLE
from tests.waiting import until

ENVIRON = {"MODELS": "/data"}


def reader(*places: Path, environ: Mapping[str, str] = ENVIRON) -> PresetFiles:
    return PresetFiles(places, TABLE, environ)


def names(file: PresetFile) -> list[str]:
    return [preset.name for preset in file.presets]


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


# B-F8
def test_several_files_are_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = put(tmp_path / "base.ini", "[*]\nttl = 5\nc = 1\n[a]\nmodel = a\nalias = x\n[b]\nmodel = b\nc = 2\n")
    mine = put(tmp_path / "mine.ini", "c = 7\n[a]\nctx-size = 3\nlora = l\n[c]\nmodel = ${MODELS}/c\n")
    file = reader(base, mine).read()
    by_name = {preset.name: preset for preset in file.presets}
    assert names(file) == ["a", "b", "c"]
    assert render(by_name["a"].args) == ["--ctx-size", "3", "--model", "a", "--lora", "l"]
    assert render(by_name["b"].args) == ["--ctx-size", "2", "--model", "b"]
    assert render(by_name["c"].args) == ["--ctx-size", "7", "--model", "/data/c"]
    assert (by_name["a"].aliases, by_name["a"].ttl, by_name["c"].ttl) == (("x",), 5, 5)
    assert by_name["a"].origins["--ctx-size"] == f"{mine}:2" or by_name["a"].origins["--ctx-size"] == f"{mine}:3"
    assert by_name["a"].origins["--model"] == f"{base}:5"
    assert caplog.messages == [f"{mine}:2: [a] is laid over that of {base}, key by key"]
    assert file.path == base
    assert names(reader(mine, base).read()) == ["a", "c", "b"]
    assert names(reader(base, base).read()) == ["a", "b"]  # each once


# B-F8
def test_a_folder_is_read_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "d" / "20.ini", "[b]\nmodel = b\n")
    put(tmp_path / "d" / "10.ini", "ttl = 9\n[a]\nmodel = a\n")
    put(tmp_path / "d" / ".20.ini", "what")
    put(tmp_path / "d" / "20.ini~", "what")
    put(tmp_path / "d" / "notes.txt", "what")
    presets = reader(tmp_path / "d")
    file = presets.read()
    assert names(file) == ["a", "b"]
    assert [preset.ttl for preset in file.presets] == [9, 9]
    put(tmp_path / "d" / "30.ini", "[c]\nmodel = c\n")
    assert names(presets.read()) == ["a", "b", "c"]
    (tmp_path / "d" / "20.ini").unlink()
    assert names(presets.read()) == ["a", "c"]
    assert caplog.messages == [f"{tmp_path}/d/20.ini is gone, and with it b"]
    (tmp_path / "empty").mkdir()
    assert files_in(tmp_path / "empty") == []
    assert names(reader(tmp_path / "empty").read()) == []


def test_a_mistake_is_that_of_its_file(tmp_path: Path) -> None:
    good = put(tmp_path / "a.ini", "[a]\nmodel = a\n")
    bad = put(tmp_path / "b.ini", "[b]\nmodel = b\nctx-siz = 5\nx = 1\n")
    with pytest.raises(PresetError) as caught:
        reader(good, bad).read()
    assert caught.value.message.startswith(f"{bad}:3: unknown key 'ctx-siz'")
    assert "1 more" in caught.value.message


# B-F8
@pytest.mark.parametrize("text", ["", "\n", "; soon\n", "[*]\nttl = 5\n", "version = 1\n"])
def test_an_emptied_file_takes_no_models_away(tmp_path: Path, text: str) -> None:
    path = put(tmp_path / "p.ini", "[a]\nmodel = a\n[b]\nmodel = b\n")
    presets = reader(path)
    presets.read()
    put(path, text)
    with pytest.raises(PresetError) as caught:
        presets.read()
    assert "there is no model in it any more, so a, b stay as they were" in caught.value.message
    assert "write models = none into it" in caught.value.message
    put(path, f"{text}\n[c]\nmodel = c\n")
    assert names(presets.read()) == ["c"]
    # One of several, too.
    other = put(tmp_path / "q.ini", "[d]\nmodel = d\n")
    both = reader(path, other)
    both.read()
    put(other, text)
    with pytest.raises(PresetError, match="so d stays as it was"):
        both.read()


# B-F8
def test_models_can_be_removed_on_purpose(tmp_path: Path) -> None:
    path = put(tmp_path / "p.ini", "[a]\nmodel = a\n")
    presets = reader(path)
    presets.read()
    put(path, "models = none\n")
    assert names(presets.read()) == []
    put(path, "")
    assert names(presets.read()) == []
    put(path, "[a]\nmodel = a\nmodels = none\n")
    with pytest.raises(PresetError, match="unknown key 'models'"):
        presets.read()
    put(path, "models = all\n")
    with pytest.raises(PresetError, match="models = none says that there are no models"):
        presets.read()


# B-F8
def test_what_has_vanished_takes_no_models_away(tmp_path: Path) -> None:
    path = put(tmp_path / "p.ini", "[a]\nmodel = a\n")
    folder = put(tmp_path / "d" / "q.ini", "[b]\nmodel = b\n").parent
    single, many = reader(path), reader(folder)
    single.read(), many.read()
    path.unlink()
    with pytest.raises(PresetError, match="cannot read the preset file: No such file"):
        single.read()
    (folder / "q.ini").unlink()
    with pytest.raises(PresetError, match="there is no preset file any more, so b stays as it was"):
        many.read()
    folder.rmdir()
    with pytest.raises(PresetError, match="cannot read the preset file: No such file"):
        many.read()


# B-F8
def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path = put(tmp_path / "p.ini", "[a]\nmodel = a\n[b]\nmodel = b\n")
    presets = reader(path)
    presets.read()
    put(path, "[a]\nmodel = a")  # half of it
    found: list[list[str]] = []
    reading = threading.Thread(target=lambda: found.append(names(presets.read())))
    reading.start()
    with path.open("a") as file:
        file.write("a\n[b]\nmodel = b\n")
    reading.join()
    assert found == [["a", "b"]]
    put(path, "[a]\nmodel = a")  # an editor that ends no last line
    os.utime(path, (1, 1))
    assert names(presets.read()) == ["a"]
    os.utime(path, (2**32, 2**32))  # a clock that goes ahead
    assert names(presets.read()) == ["a"]


# B-F8
def test_a_pipe_is_read_once_and_kept(tmp_path: Path) -> None:
    out, into = os.pipe()
    os.write(into, b"[a]\nmodel = a\n")
    os.close(into)
    more = put(tmp_path / "p.ini", "[b]\nmodel = b\n")
    presets = reader(Path(f"/dev/fd/{out}"), more)
    assert names(presets.read()) == ["a", "b"]
    os.close(out)
    put(more, "[c]\nmodel = c\n")
    assert names(presets.read()) == ["a", "c"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[é]\r\nmodel = ü\r\n".encode("utf-16"), None),
        ("[é]\nmodel = ü\n".encode("utf-16-be"), ":1: the file is not UTF-8"),
        (b"\xfe\xff" + "[é]\nmodel = ü\n".encode("utf-16-be"), None),
        (b"\xef\xbb\xbf[\xc3\xa9]\rmodel = \xc3\xbc\r", None),
        (b"[a]\nmodel = x\0\n", ":2: the file is no text: there is a NUL"),
        ("[é]\nmodel = ü\n".encode("latin-1"), ":1: the file is not UTF-8 text"),
        (b"\xff\xfe[\0a", "no whole UTF-16"),
        (b"x" * (MAX_FILE_BYTES + 1), "larger than 1 MiB"),
    ],
)
def test_encodings(tmp_path: Path, content: bytes, words: str | None) -> None:
    path = tmp_path / "p.ini"
    path.write_bytes(content)
    if words is None:
        (preset,) = reader(path).read().presets
        assert (preset.name, preset.args[0].values) == ("é", ("ü",))
    else:
        with pytest.raises(PresetError) as caught:
            reader(path).read()
        assert words in caught.value.message


def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.ini")
    for place in (tmp_path / "p.ini", tmp_path):
        with pytest.raises(PresetError, match="named pipe"):
            reader(place).read()


def test_a_file_from_the_hub_is_never_expanded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path / "p.ini", "[a]\nhf-repo = user/repo\ndescription = x\ntags = ${MODELS}\n")
    (preset,) = PresetFiles(path, TABLE, ENVIRON, foreign=True).read().presets
    assert preset.tags == ("${MODELS}",)
    with caplog.at_level(logging.WARNING):
        put(path, "models = none\n")
        until(lambda: True)
        with pytest.raises(PresetError, match="models is not taken from the hub"):
            PresetFiles(path, TABLE, ENVIRON, foreign=True).read()
