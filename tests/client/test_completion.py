"""Completion in real shells: commands, flags, and models of the running router. B-O6"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.client import completion, options
from router.client.completion import FILES, SEPARATOR, VARIABLE
from router.commands.table import COMMANDS
from tests.client.conftest import Run
from tests.client.stub import Reply, stub
from tests.routers import FAKE, Router, start
from tests.terminals import Terminal
from tests.waiting import until

NAMES = ("plain", "repo:Q8_0", "my model", "evil$(touch pwned)`touch pwned`")
SHELLS = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}
SETUP = {
    "bash": 'eval "$(llama-router completion bash)"; PS1="$ "; clear; echo set up',
    "zsh": 'autoload -U compinit; compinit -u -D; eval "$(llama-router completion zsh)"; PS1="$ "; clear; echo set up',
    # What it suggests of its history would look like what the completion gives.
    "fish": "set -g fish_autosuggestion_enabled 0; "
    'llama-router completion fish | source; function fish_prompt; echo "\\$ "; end; clear; echo set up',
}


@pytest.fixture(scope="module")
def router(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "models").mkdir()
    for name in NAMES:
        shutil.copy(tiny_models / "tiny-a.gguf", folder / "models" / f"{name}.gguf")
    flags = ("--engine", FAKE, "--models-dir", str(folder / "models"), "--run-dir", str(folder / "run"))
    router = start(folder / "r", *flags)
    yield router
    router.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the program, as an installation makes it."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "llama-router"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m router "$@"\n')
    program.chmod(0o755)
    (tmp_path / "certificate.pem").touch()
    return tmp_path


@contextmanager
def shell_with_completion(name: str, folder: Path, run_dir: Path) -> Iterator[Terminal]:
    environ = {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "LLAMA_ROUTER_RUN_DIR": str(run_dir),
        "INPUTRC": "/dev/null",
        "PS1": "$ ",  # else that of a virtual environment, which has exported its own
    }
    window = Terminal(["env", f"--chdir={folder}", *SHELLS[name]], environ, 100, 30)
    try:
        until(lambda: window.text and window.text[-1] in "#$%>")
        window.enter(SETUP[name])
        until(lambda: "set up" in window.lines)
        yield window
    finally:
        window.close()


def complete(window: Terminal, typed: str, whole: str) -> None:
    """The line becomes this one, and is thrown away."""
    window.type(typed)
    window.press("Tab")
    window.shows(whole)
    throw_away(window)


def throw_away(window: Terminal) -> None:
    """The line that was typed. What is typed before the next prompt would be thrown away too."""
    window.press("C-c")
    until(lambda: window.lines[-1] == "$")
    window.enter("clear; echo again")
    until(lambda: "again" in window.lines)


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_completes_commands_flags_files_and_models(name: str, router: Router, folder: Path) -> None:  # B-O6
    with shell_with_completion(name, folder, router.folder.parent / "run") as window:
        complete(window, "llama-router compl", "llama-router completion")
        complete(window, "llama-router completion fi", "llama-router completion fish")
        complete(window, "llama-router ps --wat", "llama-router ps --watch")
        complete(window, "llama-router run pl", "llama-router run plain")
        complete(window, "llama-router load rep", "llama-router load repo:Q8_0")
        complete(window, "llama-router load repo:Q", "llama-router load repo:Q8_0")
        complete(window, "llama-router run my", r"llama-router run my\ model")
        complete(window, "llama-router ps --cacert certi", "llama-router ps --cacert certificate.pem")
        # A name that a shell would obey is quoted.
        window.type("llama-router load evil")
        window.press("Tab")
        until(lambda: "touch" in window.text)
        window.press("Enter")
        window.shows("loaded")
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize("name", SHELLS)
def test_without_a_router_there_are_only_no_names(name: str, folder: Path) -> None:
    with shell_with_completion(name, folder, folder / "no-run") as window:
        window.type("llama-router run pl")
        window.press("Tab")
        window.type("!")
        window.shows("llama-router run pl!")
        throw_away(window)
        complete(window, "llama-router ps --wat", "llama-router ps --watch")


def words(*line: str, **environ: str) -> list[str]:
    return completion.suggestions(["llama-router", *line], environ)


def test_every_command_is_known() -> None:
    assert set(words("")) == set(COMMANDS)
    assert set(options.FLAGS) == {name for name, command in COMMANDS.items() if command.client}
    assert set(options.OTHERS) == {name for name, command in COMMANDS.items() if not command.client}


def test_flags_of_each_command() -> None:
    assert words("ps", "--w") == ["--watch"]
    assert "--models-max" in words("--models-m")
    assert words("serve", "--models-memory-m") == ["--models-memory-margin"]
    assert "--top-k" in words("load", "m", "--top")
    assert words("load", "m", "--cache-type-k", "q8") == ["q8_0"]
    assert words("run", "m", "--think", "o") == ["on", "off"]
    assert words("run", "m", "--image", "x") == [FILES]
    assert words("check", "x") == words("--models-preset", "x") == [FILES]
    assert words("ps", "x") == []
    assert words("completion", "z") == ["zsh"]


def test_names_of_models_come_from_the_router_that_the_line_means() -> None:
    odd = ("a\x1b[2J", "two\nlines", "\u202eb", "--url=http://h", "-x")
    names = [{"id": name, "status": {"value": "unloaded"}} for name in (*NAMES, *odd)]
    names[0]["status"] = {"value": "loaded"}
    names[0]["aliases"] = ["other"]
    with stub(lambda asked: Reply({"data": names})) as server:
        assert words("run", "--url", server.url, "") == ["plain", "other", *NAMES[1:]]
        assert words("load", "--url", server.url, "my") == ["my model"]
        assert words("unload", "--url", server.url, "") == ["plain", "other"]
        assert words("unload", "--url", server.url, "plain", "") == ["other"]
        assert words("logs", "--url", server.url, "") == ["plain", "other"]
        assert words("run", "--url", server.url, "plain", "") == []
        assert words("run", "--url", server.url, "--api-key", "k", "p", XDG_RUNTIME_DIR="/") == ["plain"]
        assert server.asked[-1].headers["x-api-key"] == "k"


def test_a_router_that_is_slow_costs_only_the_names() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert words("run", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}", "") == []
    assert words("run", "--url", "nonsense", "") == []


def test_the_line_comes_by_a_variable(llama_router: Run) -> None:
    """Others can read command lines, and the line may hold a key."""
    line = SEPARATOR.join(["llama-router", "ps", "--api-key", "sk-secret", "--wa"])
    assert llama_router("completion", "words", **{VARIABLE: line}).out == "--watch\n"
    assert llama_router("completion", "words").code == 2
    for name in completion.SHELLS:
        script = llama_router("completion", name).out
        assert VARIABLE in script
