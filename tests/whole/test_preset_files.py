"""Preset files while a router runs: several of them, pipes, and files that somebody spoils or removes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import Starter
from tests.routers import FAKE, Router, environment
from tests.waiting import until


def section(name: str, folder: Path, more: str = "") -> str:
    return f"[{name}]\nmodel = {folder}/tiny-a.gguf\n{more}\n"


def reload(router: Router) -> httpx.Response:
    return router.client.post("/models/reload")


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    folder = tmp_path / "presets.d"
    folder.mkdir()
    return folder


# B-F8 B-L13
def test_spoilt_files_take_no_models_away(routers: Starter, tiny_models: Path, presets: Path) -> None:
    one, two = presets / "1.ini", presets / "2.ini"
    one.write_text(section("a", tiny_models, "alias = x"))
    two.write_text("model = ${TINY}/tiny-b.gguf\n[b]\n")
    flags = ("--engine", FAKE, "--models-preset", str(one), "--models-preset", str(two), "--no-models-preset-watch")
    router = routers(*flags, TINY=str(tiny_models))
    assert set(router.listing()) == {"a", "b"}
    router.chat("a").raise_for_status()
    pids = [child.pid for child in router.children()]
    for spoilt, words in (
        ("", "there is no model in it any more, so a stays as it was"),
        ("; later\n", "write models = none into it"),
        (section("a", tiny_models, "ctx-siz = 5"), "did you mean ctx-size?"),
        (section("a", tiny_models, "tags = ${GONE}"), "the variable GONE is not set"),
        (section("a", tiny_models, "alias = b"), "is also a name of model 'b'"),
        ("\0", "NUL"),
        (None, "cannot read the preset file: No such file"),
    ):
        if spoilt is None:
            one.unlink()
        else:
            one.write_text(spoilt)
        answer = reload(router)
        assert answer.status_code == 400 or answer.status_code == 500, answer.text
        assert words in answer.text, answer.text
        assert set(router.listing()) == {"a", "b"}
        router.chat("x").raise_for_status()
    assert [child.pid for child in router.children()] == pids
    one.write_text("models = none\n")
    assert reload(router).is_success
    assert set(router.listing()) == {"b"}
    until(lambda: not [child for child in router.children() if child.pid in pids])


# B-F8
def test_a_folder_is_watched(routers: Starter, tiny_models: Path, presets: Path) -> None:
    (presets / "1.ini").write_text(section("a", tiny_models))
    router = routers("--engine", FAKE, LLAMA_ARG_MODELS_PRESET=str(presets))
    assert set(router.listing()) == {"a"}
    (presets / "2.ini").write_text(section("b", tiny_models) + section("a", tiny_models, "description = later"))
    until(lambda: set(router.listing()) == {"a", "b"})
    assert "[a] is laid over that of" in router.log
    for file in presets.iterdir():
        file.write_text("")
    until(lambda: "there is no model in it any more" in router.log)
    assert set(router.listing()) == {"a", "b"}


# B-F8
def test_a_pipe_is_kept(tiny_models: Path, presets: Path, tmp_path: Path) -> None:
    """As in `--models-preset <(program)`."""
    (presets / "1.ini").write_text(section("b", tiny_models))
    out, into = os.pipe()
    os.write(into, section("a", tiny_models).encode())
    os.close(into)
    command = [sys.executable, "-m", "router", "--engine", FAKE, "--port", "0", "--run-dir", str(tmp_path / "run")]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "--models-preset", f"/dev/fd/{out},{presets}"],
            env=environment(tmp_path),
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            pass_fds=[out],
        )
    os.close(out)
    router = Router(process, log, tmp_path)
    try:
        assert set(router.listing()) == {"a", "b"}
        assert reload(router).is_success
        assert set(router.listing()) == {"a", "b"}
        (presets / "1.ini").write_text(section("c", tiny_models))
        until(lambda: set(router.listing()) == {"a", "c"})
    finally:
        router.stop()
