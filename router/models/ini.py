r"""INI text: its lines under their sections, and a section written back as text.

The format is that of llama.cpp's router (common/preset.cpp), with two differences. `;` and `#` belong to the value
unless white space stands before them; `\#` keeps a `#` even then. And a mistake is reported with its line instead of
ending the reading. What keys and values mean is not known here: that is the matter of `presets`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from router.engine.flags import Arg
from router.text import valid

DEFAULTS = "*"  # the section whose lines hold for all models; also that of lines before any header


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake in a file. `line` counts from 1; `message` is a whole sentence; `nearest` is the key that was probably
    meant, if one is near. A `warning` keeps nothing from working."""

    line: int
    key: str | None
    message: str
    nearest: str | None = None
    is_warning: bool = False


class Mistake(Exception):
    """What is wrong with one line. The reader of the file makes a Problem of it."""

    def __init__(self, message: str, nearest: str | None = None) -> None:
        super().__init__(message)
        self.message, self.nearest = message, nearest


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    key: str
    value: str


@dataclass(slots=True)
class Section:
    """`line` is that of its header."""

    name: str
    line: int
    lines: list[Line] = field(default_factory=list)


def read_sections(text: str) -> tuple[list[Section], list[Problem]]:
    """The sections in their order, that of the defaults first, and the mistakes in the text."""
    sections = [Section(DEFAULTS, 0)]
    problems: list[Problem] = []
    headers: dict[str, int] = {}
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        stripped = line.strip()
        if not stripped or stripped[0] in ";#":
            continue
        key, equals, value = line.partition("=")
        if stripped[0] == "[":
            match = re.fullmatch(r"\[([^]]*)\]\s*([;#].*)?", stripped)
            name = match[1].strip() if match else ""
            earlier = headers.setdefault(name, number)
            if not name:
                problems.append(Problem(number, None, "a section is written [name]"))
            elif earlier != number:
                problems.append(Problem(number, None, f"[{name}] is there already, at line {earlier}: merge them"))
            sections.append(Section(name, number))
        elif equals:
            sections[-1].lines.append(Line(number, key.strip(), _value(value)))
        else:
            # The line itself is not quoted: it may be a token.
            word = re.match(r"[a-z][a-z-]{1,40}(?=\s)", stripped)
            what = f"an = is missing behind {word[0]}" if word else "this is neither"
            problems.append(Problem(number, None, f"expected key = value or [section]; {what}"))
    return sections, problems


def _value(text: str) -> str:
    """What follows the equals sign, without the comment. A backslash keeps what would begin a comment."""
    without_comment = re.split(r"\s[;#]", text, maxsplit=1)[0]
    return re.sub(r"(?<=\s)\\(?=\\*[;#])", "", without_comment).strip()


def write_section(name: str, args: Iterable[Arg]) -> str:
    """The text of a section with these arguments, as llama.cpp shows it in its model list."""
    lines = [f"[{name}]"]
    for arg in args:
        value = " ".join(arg.values) if arg.flag.arity else str(not arg.negated).lower()
        value = re.sub(r"(?<!\S)(?=\\*[;#])", r"\\", value).replace("\n", "\\\n")
        lines.append(f"{arg.flag.name.lstrip('-')} = {value}")
    return valid("\n".join((*lines, "", "")))
