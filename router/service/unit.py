"""PURE: the text of a unit for a user's systemd.

systemd reads a command line with rules of its own: `%` and `$` have a meaning, quotes and backslashes too. `quoted`
writes a word so that the program gets it as it is. Called by `command`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.errors import ConfigError

NAME = "llama-router.service"
# A unit with this first line was written here, and may be written again.
MARK = "# Written by: llama-router service install"
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "%": "%%"}
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+,./:@")


@dataclass(frozen=True, slots=True)
class Service:
    """What a unit says.

    `command` is the program with its words.
    `folder` is the working directory, absolute: relative paths among the words begin there.
    `search` is the `PATH` on which engines are found.
    `secrets` is a file with variables, absolute. It need not exist.
    `stop_s` is how long an end may take: the router's grace, and its children's.
    """

    command: Sequence[str]
    folder: str
    search: str
    secrets: str
    stop_s: int

    def text(self) -> str:
        """The unit. Raises ConfigError for what no unit can say."""
        return f"""\
{MARK}
# To change the options, install it again. `systemctl --user edit llama-router` adds lines that stay.

[Unit]
Description=llama-router: one port in front of many llama-server children

[Service]
Type=notify
ExecStart={" ".join(quoted(word, has_variables=True) for word in self.command)}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={_path(self.folder)}
Environment={quoted(f"PATH={self.search}")}
# Keys and tokens, one NAME=value a line, such as LLAMA_API_KEY=...; nobody else should be able to read it.
EnvironmentFile=-{_path(self.secrets)}

# A router that hangs is restarted. One that ends by itself, too, unless its command line is wrong.
WatchdogSec=30
Restart=on-failure
RestartPreventExitStatus=2
# Running requests finish, then children end: the router does that itself, and systemd kills only what is left.
TimeoutStopSec={self.stop_s}
KillMode=mixed

NoNewPrivileges=yes
LimitNOFILE=65536

[Install]
WantedBy=default.target
"""


def quoted(word: str, *, has_variables: bool = False) -> str:
    """A word as systemd must read it. With `has_variables`, `$` would begin one, as in a command line."""
    if word and _PLAIN.issuperset(word):
        return word
    if any(letter < " " and letter not in _ESCAPES for letter in word):
        raise ConfigError(f"a unit of systemd cannot hold the word {word!r}")
    escapes = _ESCAPES | ({"$": "$$"} if has_variables else {})
    return '"' + "".join(escapes.get(letter, letter) for letter in word) + '"'


def _path(path: str) -> str:
    """A path that is all of a line: there, quotes and backslashes have no meaning."""
    if not path.isprintable() or path != path.strip() or path.endswith("\\"):
        raise ConfigError(f"a unit of systemd cannot hold the path {path!r}")
    return path.replace("%", "%%")
