"""The units for systemd fit the router: what they promise, the router does. B-P12

The file for launchd is a file of the right form that names what the router knows; nobody tried it on a Mac. B-I3"""

from __future__ import annotations

import configparser
import plistlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from router.commands.table import COMMANDS
from router.settings import OPTIONS

UNITS = Path(__file__).parents[1] / "presets" / "systemd"
LAUNCHD = UNITS.with_name("launchd") / "llama-router.plist"
SERVICE, SOCKET = UNITS / "llama-router.service", UNITS / "llama-router.socket"


def read(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(unit)
    return parser


def test_the_command_line_is_one_of_the_routers() -> None:  # B-P12
    program, *words = shlex.split(read(SERVICE)["Service"]["ExecStart"])
    assert Path(program).name == "llama-router"
    assert words[0] in COMMANDS or words[0].startswith("-")
    known = {spelling for option in OPTIONS for spelling in option.spellings}
    for text in (SERVICE.read_text(), SOCKET.read_text()):
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--now", "--mlock"} <= known


def test_the_service_hears_what_the_router_tells() -> None:  # B-P12
    service = read(SERVICE)["Service"]
    assert service["Type"] in ("notify", "notify-reload")
    assert service["ExecReload"].endswith("-HUP $MAINPID")
    assert int(service["WatchdogSec"]) >= 10
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert service["KillMode"] == "mixed", "children are ended by the router"
    # These would hide the GPUs, or keep CUDA from working.
    assert not {"PrivateDevices", "ProtectClock", "MemoryDenyWriteExecute", "DeviceAllow"} & set(service)
    assert {"CacheDirectory", "StateDirectory", "RuntimeDirectory", "NoNewPrivileges"} <= set(service)


def test_the_socket_is_the_services() -> None:  # B-P12
    assert SOCKET.stem == SERVICE.stem
    assert read(SERVICE)["Unit"]["Requires"] == SOCKET.name
    socket = read(SOCKET)["Socket"]
    assert "Accept" not in socket, "one router takes all connections"
    assert socket["ListenStream"].startswith("127.0.0.1:"), "nothing is open to other machines without a key"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="not installed: apt-get install systemd")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    for unit in (SERVICE, SOCKET):
        text = unit.read_text().replace("/usr/local/bin/llama-router", shutil.which("true") or "/bin/true")
        (tmp_path / unit.name).write_text(text)
    units = [str(tmp_path / unit.name) for unit in (SOCKET, SERVICE)]
    ended = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="not installed: apt-get install systemd")
def test_the_service_is_exposed_to_little(tmp_path: Path) -> None:  # B-I3
    unit = tmp_path / SERVICE.name
    unit.write_text(SERVICE.read_text().replace("/usr/local/bin/llama-router", shutil.which("true") or "/bin/true"))
    words = ["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", str(unit)]  # of 100
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_file_for_launchd_says_what_the_router_knows() -> None:  # B-I3
    agent = plistlib.loads(LAUNCHD.read_bytes())
    program, *words = agent["ProgramArguments"]
    assert Path(program).name == "llama-router"
    known = {spelling for option in OPTIONS for spelling in option.spellings}
    assert {word for word in words if word.startswith("-")} <= known
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["ExitTimeOut"] >= int(read(SERVICE)["Service"]["TimeoutStopSec"])
