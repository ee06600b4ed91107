"""The user's systemd: where its units are, and orders to it. Called by `command`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from router import files
from router.engine import programs
from router.errors import ConfigError

TIMEOUT_S = 60.0
MAX_UNIT_BYTES = 1 << 16


def config_home(environ: Mapping[str, str]) -> Path:
    """The folder of the user's settings, absolute."""
    named = environ.get("XDG_CONFIG_HOME")
    return Path(named) if named and os.path.isabs(named) else files.home() / ".config"


def unit_path(environ: Mapping[str, str], name: str) -> Path:
    return config_home(environ) / "systemd" / "user" / name


def read(path: Path) -> str | None:
    """A unit's text; None if there is none. Raises ConfigError."""
    try:
        return files.read(path, MAX_UNIT_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {files.problem_of(path, error)}") from error


def write(path: Path, text: str) -> None:
    """Whole or not at all. Raises ConfigError."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".llama-router.", dir=path.parent)
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(temporary, path)  # only its user can read it, as mkstemp has made it
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def order(*words: str) -> None:
    """`systemctl --user` with these words. Raises ConfigError with what it said."""
    command = f"systemctl --user {' '.join(words)}"
    try:
        done = programs.run(["systemctl", "--user", *words], {}, TIMEOUT_S)
    except FileNotFoundError as error:
        raise ConfigError("there is no systemctl here: this machine is not run by systemd") from error
    except programs.TimedOut as error:
        raise ConfigError(f"`{command}` took longer than {TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise ConfigError(f"`{command}` cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise ConfigError(f"`{command}` failed: {said}")
