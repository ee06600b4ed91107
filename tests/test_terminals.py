"""Where a user has no home and no name, and a terminal has few letters: no command ends in a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from router.files import expanded, home
from tests.routers import FAKE

ROOT = Path(__file__).parents[1]
NAME = "modèle-日本"

# No entry in the table of users, as for a container's unknown user.
STRANGER = """
import pwd
def unknown(user):
    raise KeyError(user)
pwd.getpwuid = pwd.getpwnam = unknown
"""

TERMINALS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "strict": {"PYTHONIOENCODING": "ascii:strict"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C": {"LC_ALL": "C"},
    "nothing but ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},  # names of files too
    "utf-8": {"PYTHONUTF8": "1"},
}

COMMANDS: list[tuple[int, list[str]]] = [
    (0, ["--help"]),
    (0, ["list", "--models-dir", "{models}"]),
    (0, ["list", "--models-preset", "{folder}/größe.ini", "--models-dir", "{models}"]),
    (0, ["list", "--json", "--models-dir", "{models}"]),
    (0, ["check", "{folder}/größe.ini"]),
    (1, ["check", "{folder}/bad.ini"]),
    (0, ["estimate", "größe", "--engine", FAKE, "--models-preset", "{folder}/größe.ini"]),
    (0, ["estimate", "{models}/modèle-日本.gguf", "--engine", FAKE]),
    (1, ["rm", "user/repo"]),
    (1, ["pull", "user/repo", "--offline"]),
    (2, ["pull", "ü/repo"]),
    (2, ["nönsense"]),
    (3, ["ps", "--host", "/größe.sock"]),
    (3, ["load", "größe", "--host", "/größe.sock"]),
    (3, ["logs", "größe", "--url", "http://127.0.0.1:1"]),
    (3, ["run", "größe", "schön?", "--url", "http://127.0.0.1:1"]),
    (2, ["run", "größe", "--set", "größe=1", "ü"]),
    (0, ["completion", "zsh"]),
    (2, ["--engine", FAKE, "--models-dir", "~/gone"]),
    (2, ["--engine", FAKE, "--models-dir", "~nobody-of-that-name/é"]),
    (2, ["--engine", "~/é"]),
    (2, ["--engine", FAKE, "--config", "~/é.ini"]),
]


@pytest.fixture(scope="module")
def folder(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "models").mkdir()
    shutil.copy(tiny_models / "tiny-a.gguf", folder / "models" / f"{NAME}.gguf")
    preset = f"[größe]\nmodel = {folder}/models/{NAME}.gguf\ndescription = schön\n"
    (folder / "größe.ini").write_text(preset, encoding="utf-8")
    (folder / "bad.ini").write_text("[größe]\nhf-repo = user/repo\nalias = é, é\nschön = 1\n", encoding="utf-8")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(STRANGER)
    return folder


@pytest.mark.parametrize("terminal", TERMINALS)
def test_every_command_answers(terminal: str, folder: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}/site{os.pathsep}{ROOT}", **TERMINALS[terminal]}
    for code, words in COMMANDS:
        filled = [word.format(folder=folder, models=folder / "models") for word in words]
        ended = subprocess.run(
            [os.fsencode(word) for word in (sys.executable, "-m", "router", *filled)],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert b"Traceback" not in ended.stderr, (words, ended.stderr)
        assert ended.returncode == code or (terminal == "nothing but ascii" and ended.returncode in (0, 1, 2)), words
        assert ended.stdout or ended.stderr
        if terminal == "utf-8" and words[:2] == ["list", "--models-dir"]:
            assert NAME.encode() in ended.stdout
        if terminal in ("ascii", "strict", "nothing but ascii"):
            assert ended.stdout.isascii()


@pytest.mark.parametrize("terminal", ["strict", "nothing but ascii"])
def test_a_router_and_its_first_conversation(terminal: str, folder: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}/site{os.pathsep}{ROOT}", **TERMINALS[terminal]}
    command = [
        sys.executable,
        "-m",
        "router",
        "demo",
        "--once",
        "--engine",
        FAKE,
        "--run-dir",
        str(folder / terminal[:3]),
    ]
    ended = subprocess.run(command, env=env, cwd="/", capture_output=True, timeout=100, check=False)
    assert (ended.returncode, b"Traceback" in ended.stderr) == (0, False), ended.stderr


def test_a_home_that_is_known_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (home(), expanded("~"), expanded("~/a/b")) == (tmp_path, tmp_path, tmp_path / "a" / "b")
    assert expanded("~no-such-user-here/a") == Path("~no-such-user-here/a")
    assert expanded("a/~/b") == Path("a/~/b")
