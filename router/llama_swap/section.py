"""PURE: one section of a preset file while it is filled, and what is said about what does not get into it.

The text of a value is written so that `models.ini` reads the same value back. What the format cannot express is left
out with a sentence. Used by `model`, `whole` and `convert`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from router.llama_swap.macros import with_references
from router.logs.letters import visible


class Note(NamedTuple):
    """What was not carried over, and why. `line` is that of the configuration; `where` is a model, or "" for all."""

    line: int
    where: str
    message: str

    @property
    def text(self) -> str:
        """The message as one line, with variables as the configuration writes them."""
        return _shown(self.message)

    def __str__(self) -> str:
        return f"{_shown(self.where)}: {self.text}" if self.where else self.text


class Entry(NamedTuple):
    key: str
    value: str
    line: int


@dataclass(slots=True)
class Section:
    """`name` is the model's; `line` is that of its entry in the configuration."""

    name: str
    line: int
    entries: list[Entry] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Section {self.name}: {len(self.entries)} keys, {len(self.notes)} notes>"

    def note(self, message: str, line: int = 0) -> None:
        self.notes.append(Note(line or self.line, self.name, message))

    def set(self, key: str, value: str, line: int = 0) -> None:
        """Add a line. Values that an INI line cannot hold are left out with a note."""
        if reason := inexpressible(value):
            self.note(f"{key}: {reason}", line)
        else:
            self.entries.append(Entry(key, value, line or self.line))

    def get(self, key: str) -> str | None:
        return next((entry.value for entry in self.entries if entry.key == key), None)

    def drop(self, key: str, message: str) -> None:
        """Leave out what was set already."""
        self.entries = [entry for entry in self.entries if entry.key != key]
        self.note(f"{key}: {message}")

    def text(self) -> str:
        comments = [f"; {line}" for line in dict.fromkeys(note.text for note in self.notes)]
        lines = [f"{entry.key} = {written(entry.value)}" for entry in self.entries]
        return "\n".join((f"[{self.name}]", *comments, *lines)) + "\n"


def _shown(text: str) -> str:
    return visible(with_references(text, lambda name: f"${{env.{name}}}"))


def inexpressible(value: str) -> str | None:
    """Why no line of a preset file can hold this value; None if one can."""
    if re.search(r"[\r\n\0]", value):
        return "its value has several lines: put it into a file, and name that"
    if value != value.strip():
        return "its value begins or ends with white space"
    return None


def written(value: str) -> str:
    """A value as it stands in the file. A backslash keeps what would begin a comment."""
    value = with_references(value, lambda name: f"${{{name}}}")
    return re.sub(r"(?<!\S)(?=\\*[;#])", r"\\", value)


def escaped(value: str) -> str:
    """A value in which `${` is no variable. References to the environment are not touched."""
    return value.replace("$", "$$") if "${" in value else value
