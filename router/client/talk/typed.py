"""PURE: what a typed line means: a message, perhaps with pictures, or a command that begins with `/`.

A terminal writes the path of a file that is dropped on it into the line: in quotes, or with backslashes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

QUOTES = '"""'
COMMANDS = {
    "/set parameter": "/set parameter NAME VALUE     temperature, top_p, max_tokens, stop ...; default takes it back",
    "/set system": "/set system TEXT              what the model is told before everything else",
    "/set think": "/set think on|off|LEVEL       whether to think, or how hard",
    "/set verbose": "/set verbose, /set quiet      tokens, and how fast, after each answer",
    "/set quiet": "",
    "/load": "/load MODEL                   go on with another model",
    "/show": "/show                         the model, and what is set",
    "/clear": "/clear                        forget the conversation",
    "/bye": "/bye                          leave; so do ctrl-D, and ctrl-C twice",
    "/?": "/?                            this list",
}
OTHERS = {"/help": "/?", "/exit": "/bye", "/quit": "/bye"}
HELP = (
    *filter(None, COMMANDS.values()),
    "",
    'Text of several lines stands between """ and """, or is pasted. A picture is added by its path, which a terminal',
    "writes when the file is dropped on it. ctrl-C stops an answer.",
)
PICTURES = ("png", "jpg", "jpeg", "webp", "gif", "bmp")
# A path in quotes; or one that begins as paths do, whose blanks have a backslash.
_KINDS = "|".join(PICTURES)
_PATH = re.compile(
    rf"""'(?P<single>[^'\n]+\.(?:{_KINDS}))'|"(?P<double>[^"\n]+\.(?:{_KINDS}))"|"""
    rf"""(?:(?<=\s)|^)(?P<bare>(?:file://|~|\.{{0,2}})?/(?:\\.|[^\s\\'"])+?\.(?:{_KINDS}))"""
    r"""(?=\s|$|[,;:!?.)](?:\s|$))""",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Slash:
    """A command. `name` is one of COMMANDS, or what was typed if there is none such; `rest` is the text behind it."""

    name: str
    rest: str = ""

    @property
    def is_known(self) -> bool:
        return self.name in COMMANDS

    def words(self) -> list[str]:
        try:
            return shlex.split(self.rest)
        except ValueError:  # a quote that does not end
            return self.rest.split()


def read_slash(line: str, is_file: Callable[[str], bool]) -> Slash | None:
    """The command of a line; None for a message, also one that begins with the path of a file."""
    text = line.strip()
    if not text.startswith("/") or any(is_file(path) for _, path in paths_in(text)):
        return None
    first, _, rest = text.partition(" ")
    second, _, others = rest.strip().partition(" ")
    name = f"{first} {second}" if f"{first} {second}" in COMMANDS else OTHERS.get(first, first)
    return Slash(name, others.strip() if " " in name else rest.strip())


def paths_in(text: str) -> list[tuple[str, str]]:
    """What may be paths of pictures: each as it stands in the text, and the path that it means."""
    found = []
    for match in _PATH.finditer(text):
        path = match["single"] or match["double"] or re.sub(r"\\(.)", r"\1", match["bare"])
        found.append((match[0], path.removeprefix("file://")))
    return found


def is_open(text: str) -> bool:
    """Whether the text has begun with quotes, and more of it follows."""
    start = text.lstrip()
    if start.startswith("/set system "):
        start = start.removeprefix("/set system ").lstrip()
    return start.startswith(QUOTES) and not (len(start) >= 2 * len(QUOTES) and start.rstrip().endswith(QUOTES))


def without_quotes(text: str) -> str:
    """Text without the quotes around it."""
    stripped = text.strip()
    if stripped.startswith(QUOTES) and stripped.endswith(QUOTES) and len(stripped) >= 2 * len(QUOTES):
        return stripped[len(QUOTES) : -len(QUOTES)].strip("\n")
    if len(stripped) > 1 and stripped[0] == stripped[-1] == '"' and stripped.count('"') == 2:
        return stripped[1:-1]
    return stripped
