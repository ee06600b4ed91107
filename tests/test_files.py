"""Files are opened without waiting, only if they are regular, and read within bounds."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from router import files, settings
from router.engine.flags import default_table
from router.errors import FlagError, GgufError, PresetError
from router.hub import cache as hub
from router.memory.footprints import Footprints
from router.models import gguf, presets
from tests.conftest import Starter
from tests.routers import chat

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX's kinds of files")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "a named pipe"),
    "directory": (Path.mkdir, "a directory"),
    "socket": (_socket, "a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
}


@pytest.fixture(params=sorted(KINDS))
def special(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    make, said = KINDS[request.param]
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    make(Path("x"))
    return tmp_path / "x", said


def test_only_regular_files_are_opened(special: tuple[Path, str]) -> None:  # B-T6
    path, said = special
    for read in (files.open_regular, lambda path: files.read(path, 10), lambda path: files.read_start(path, 10)):
        with pytest.raises((files.NotAFile, IsADirectoryError), match=said):
            read(path)
    assert files.is_special(path)


def test_every_reader_refuses_special_files(special: tuple[Path, str], tmp_path: Path) -> None:  # B-T6
    path, said = special
    with pytest.raises(GgufError, match=said):
        gguf.read(path)
    with pytest.raises(PresetError, match=said):
        presets.read(path, default_table())
    with pytest.raises(FlagError, match=said):
        settings.parse(["--api-key-file", str(path)], {}, default_table())
    refs = tmp_path / "models--a--b" / "refs"
    refs.mkdir(parents=True)
    path.rename(refs / "main")
    assert hub.find(tmp_path, "a/b") is None
    assert Footprints(refs / "main").get("x") is None  # which may put it aside


def test_the_null_device_is_an_empty_file() -> None:  # B-T6
    assert files.read(os.devnull, 10) == b""
    assert not files.is_special(os.devnull)


def test_files_over_the_bound_are_refused(tmp_path: Path) -> None:  # B-T6
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert files.read(path, 5) == b"12345"
    assert files.read_start(path, 3) == b"123"
    assert not files.is_special(path)
    with pytest.raises(files.TooLarge, match="larger than"):
        files.read(path, 4)


def test_a_key_may_come_through_an_inherited_pipe() -> None:  # B-T6
    reader, writer = os.pipe()
    os.write(writer, b"secret\n")
    os.close(writer)
    try:
        assert files.read_secret(f"/dev/fd/{reader}", 100) == b"secret\n"
    finally:
        os.close(reader)


@pytest.mark.parametrize("flag", ["chat-template-file", "lora", "grammar-file"])
def test_loads_that_name_a_pipe_fail_and_do_not_stop_others(  # B-T6
    routers: Starter, tiny_models: Path, fake: str, tmp_path: Path, flag: str
) -> None:
    pipe, preset = tmp_path / "pipe", tmp_path / "presets.ini"
    os.mkfifo(pipe)
    bad = "".join(f"[bad-{n}]\nmodel = {tiny_models}/tiny-a.gguf\n{flag} = {pipe}\n" for n in range(8))
    preset.write_text(f"{bad}[good]\nmodel = {tiny_models}/tiny-b.gguf\n")
    router = routers("--engine", fake, "--models-preset", str(preset))
    with ThreadPoolExecutor(8) as clients:

        def ask(number: int) -> httpx.Response:
            return httpx.post(f"{router.url}/v1/chat/completions", json=chat(f"bad-{number}"), timeout=60)

        answers = [clients.submit(ask, number) for number in range(8)]
        assert router.chat("good").status_code == 200
        for answer in answers:
            response = answer.result(60)
            assert "no regular file" in response.text
            assert response.status_code == 500
    begun = time.monotonic()
    assert router.stop() == 0
    assert time.monotonic() - begun < 12
