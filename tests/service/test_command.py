"""`llama-router service`, with a systemctl that only notes what it is told. B-I3"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from router.service.unit import MARK
from tests.routers import FAKE
from tests.shell import Ended, Shell, write
from tests.waiting import until

SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$HOME/orders"
if [ "$2" = "$FAILS" ]; then echo "Failed to connect to bus: No medium found" >&2; exit 1; fi
"""


class Installed:
    """A user's home, and his commands."""

    def __init__(self, shell: Shell) -> None:
        self.shell, self.home = shell, shell.folder / "home"
        self.bin = shell.folder / "bin"
        self.bin.mkdir()
        self.home.mkdir()
        write(self.bin / "systemctl", SYSTEMCTL, executable=True)
        self.unit = self.home / ".config/systemd/user/llama-router.service"
        self.secrets = self.home / ".config/llama-router/environment"

    def __call__(self, *words: str, **environ: str) -> Ended:
        own = {"HOME": str(self.home), "PATH": f"{self.bin}:/usr/bin:/bin", "XDG_CONFIG_HOME": "", **environ}
        return self.shell("service", *words, **own)

    def orders(self) -> list[str]:
        path = self.home / "orders"
        return path.read_text().splitlines() if path.exists() else []

    def value(self, name: str) -> str:
        (line,) = (line for line in self.unit.read_text().splitlines() if line.startswith(f"{name}="))
        return line.partition("=")[2]


@pytest.fixture
def service(shell: Shell) -> Installed:
    return Installed(shell)


# B-I3
def test_what_is_installed_serves_as_in_the_shell(service: Installed, tiny_models: Path) -> None:
    shell = service.shell
    (shell.folder / "my models").symlink_to(tiny_models)
    options = ["--engine", FAKE, "--models-dir", "my models", "--port", str(shell.port), "--shutdown-grace", "20.5"]
    ended = service("install", *options)
    assert ended.code == 0, ended.err
    assert service.orders() == [f"--user {order}" for order in ("daemon-reload", *named("enable", "restart"))]
    assert "starts at each login" in ended.out
    assert service.value("TimeoutStopSec") == "36"
    assert service.value("EnvironmentFile") == f"-{service.secrets}"
    command = shlex.split(service.value("ExecStart"))
    assert command[-len(options) :] == options
    environ = {"PATH": service.value("Environment").removeprefix("PATH="), "HOME": str(service.home)}
    environ |= {"PYTHONPATH": str(Path(__file__).parents[2]), "XDG_RUNTIME_DIR": str(shell.folder)}
    folder = service.value("WorkingDirectory")
    with subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: answers(shell.port))
            found = httpx.get(f"http://127.0.0.1:{shell.port}/models").json()["data"]
            assert {entry["id"] for entry in found} >= {"tiny-a", "tiny-b"}
        finally:
            process.terminate()


def named(*orders: str) -> list[str]:
    return [f"{order} llama-router.service" for order in orders]


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_show_changes_nothing(service: Installed) -> None:
    ended = service("show", "--engine", FAKE)
    assert ended.out.startswith(MARK)
    assert not service.unit.exists()
    assert not service.orders()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["install", "--modles-max", "2"], "--models-max"),
        (["install", "--api-key", "hush"], "--api-key would show its value to everybody"),
        (["install", "--admin-key=hush"], "--admin-key would show its value to everybody"),
        (["install", "-hft", "hush"], "-hft would show its value to everybody"),
        (["uninstall", "--port", "1"], "service uninstall takes no options"),
        (["start"], "llama-router service install|show|uninstall"),
        ([], "llama-router service install|show|uninstall"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(service: Installed, words: list[str], said: str) -> None:
    ended = service(*words)
    assert ended.code == 2
    assert said in ended.sentence
    assert "hush" not in ended.err
    assert not service.unit.exists()
    assert not service.orders()


def test_variables_that_the_service_lacks_are_told_without_their_values(service: Installed) -> None:  # B-I3
    ended = service("install", "--engine", FAKE, LLAMA_API_KEY="hush", HF_TOKEN="hush")
    assert ended.code == 0
    assert "HF_TOKEN" in ended.sentence
    assert "LLAMA_API_KEY" in ended.sentence
    assert str(service.secrets) in ended.sentence
    assert "hush" not in ended.out + ended.err + service.unit.read_text()


def test_it_is_replaced_and_removed_and_what_others_wrote_is_not(service: Installed) -> None:  # B-I3
    assert service("install", "--engine", FAKE).code == 0
    assert service("install", "--engine", FAKE, "--port", "9000").code == 0
    assert "--port 9000" in service.value("ExecStart")
    assert service("uninstall").code == 0
    assert service.orders()[-2:] == ["--user disable --now llama-router.service", "--user daemon-reload"]
    assert not service.unit.exists()
    assert "there is no service" in service("uninstall").sentence

    write(service.unit, "[Service]\nExecStart=/bin/true\n")
    assert "--force replaces it" in service("install", "--engine", FAKE).sentence
    assert "remove it yourself" in service("uninstall").sentence
    assert service.unit.read_text().startswith("[Service]")
    assert service("install", "--engine", FAKE, "--force").code == 0
    assert service.unit.read_text().startswith(MARK)
    assert "--force" not in service.unit.read_text()


def test_what_systemctl_says_is_told(service: Installed) -> None:
    ended = service("install", "--engine", FAKE, FAILS="enable")
    assert ended.code == 2
    assert "`systemctl --user enable llama-router.service` failed: Failed to connect to bus" in ended.sentence


def test_a_machine_without_systemd_is_told(service: Installed) -> None:
    (service.bin / "systemctl").unlink()
    ended = service("install", "--engine", FAKE, PATH=os.pathsep.join([str(Path(sys.executable).parent)]))
    assert ended.code == 2
    assert "this machine is not run by systemd" in ended.sentence
