"""`llama-router service install [options]`, `show` and `uninstall`.

The options are read as `serve` would read them, so a mistake is told before anything is written. Variables of the shell
that the router reads are not in the service's environment: they are named, with the file that they belong into. Called
by `commands`.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from router.errors import ConfigError, FlagError
from router.logs.letters import visible
from router.logs.streams import say
from router.plan import read_plan
from router.service import systemd, unit
from router.settings import OPTIONS

CHILDREN_END_S = 15  # a child's stop-timeout is 10 s by default
SECRETS = {"--api-key", "--admin-key", "--hf-token", "-hft"}
ORDERS = ("install", "show", "uninstall")


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The exit code. Raises ConfigError."""
    order, *words = argv or [""]
    if order not in ORDERS:
        raise FlagError(f"say what to do: llama-router service {'|'.join(ORDERS)}")
    path = systemd.unit_path(environ, unit.NAME)
    if order == "uninstall":
        if words:
            raise FlagError(f"service uninstall takes no options, not {visible(words[0])!r}")
        return _uninstall(path)
    options = [word for word in words if word != "--force"]
    text = made(options, environ).text()
    if order == "show":
        print(text, end="")
        return 0
    return _install(path, text, options, environ, is_forced="--force" in words)


def made(words: Sequence[str], environ: Mapping[str, str]) -> unit.Service:
    """The service that serves with these options. Raises ConfigError for options that `serve` would refuse."""
    for word in words:
        if word.partition("=")[0] in SECRETS:
            raise FlagError(
                f"{word.partition('=')[0]} would show its value to everybody on this machine: "
                f"write NAME=value into {secrets_path(environ)}"
            )
    grace = read_plan(words, environ).settings.shutdown_grace
    return unit.Service(
        command=(*program(), *words),
        folder=os.getcwd(),
        search=environ.get("PATH", os.defpath),
        secrets=str(secrets_path(environ)),
        stop_s=math.ceil(grace) + CHILDREN_END_S,
    )


def secrets_path(environ: Mapping[str, str]) -> Path:
    return systemd.config_home(environ) / "llama-router" / "environment"


def program() -> list[str]:
    """What runs this very installation."""
    beside = Path(sys.executable).with_name("llama-router")
    return [str(beside)] if beside.is_file() else [sys.executable, "-P", "-m", "router"]


def unseen(environ: Mapping[str, str]) -> list[str]:
    """Variables of this shell that a router reads, and that a service does not get."""
    own = {name for option in OPTIONS for name in option.variables}
    return sorted(name for name in environ if name in own or name.startswith(("LLAMA_ARG_", "HF_", "CUDA_VISIBLE")))


def _install(path: Path, text: str, words: Sequence[str], environ: Mapping[str, str], *, is_forced: bool) -> int:
    before = systemd.read(path)
    if before is not None and not before.startswith(unit.MARK) and not is_forced:
        raise ConfigError(f"{path} was not written by this command: --force replaces it")
    systemd.write(path, text)
    systemd.order("daemon-reload")
    systemd.order("enable", unit.NAME)
    systemd.order("restart", unit.NAME)
    options = f" with {' '.join(words)}" if words else ""
    print(visible(f"{path}: it runs{options}, and starts at each login."))
    print("`loginctl enable-linger` starts it with the machine. `journalctl --user -u llama-router -f` shows its log.")
    if missing := unseen(environ):
        say(f"llama-router: the service does not see {', '.join(missing)}: put them into {secrets_path(environ)}")
    return 0


def _uninstall(path: Path) -> int:
    """What the router keeps stays: names, measurements, downloads, keys."""
    before = systemd.read(path)
    if before is None:
        raise ConfigError(f"there is no service: {path} does not exist")
    if not before.startswith(unit.MARK):
        raise ConfigError(f"{path} was not written by this command: remove it yourself")
    systemd.order("disable", "--now", unit.NAME)
    path.unlink(missing_ok=True)
    systemd.order("daemon-reload")
    print(visible(f"{path} has been removed, and the router has ended. Its models and settings are where they were."))
    return 0
