"""PURE: `${NAME}` in the texts of llama-swap's configuration: macros, the model's id, its port, and the environment.

A later macro may contain an earlier one, so they are replaced from the last to the first, as llama-swap does. A
variable of the environment, `${env.NAME}`, stays a reference: the preset file has `${NAME}` for it, so that a secret
never gets into the file. On the way it is marked by two characters that no text has. Called by `convert` and `model`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

OPEN, CLOSE = "\ufdd0", "\ufdd1"  # noncharacters, around the name of a variable
MAX_CHARACTERS = 2**16  # of a text whose macros are replaced
_VARIABLE = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
_REFERENCE = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")
_MACRO = re.compile(r"\$\{([a-zA-Z0-9_-]+)\}")


class Unexpandable(Exception):
    """The message is a sentence."""


def mark_variables(text: str) -> str:
    """The text of the file, with each `${env.NAME}` marked."""
    return _VARIABLE.sub(rf"{OPEN}\1{CLOSE}", text.replace(OPEN, "").replace(CLOSE, ""))


def variables(text: str) -> list[str]:
    """The names of the variables that a text refers to."""
    return _REFERENCE.findall(text)


def with_references(text: str, write: Callable[[str], str]) -> str:
    """The text with what `write` makes of the name of each variable."""
    return _REFERENCE.sub(lambda found: write(found[1]), text)


class Macros:
    """Those of one model: its own over those of all.

    ::

        Macros([("ctx", 4096), ("args", "-c ${ctx}")]).expand("x ${args}")  # "x -c 4096"
    """

    def __init__(self, entries: Sequence[tuple[str, Any]]) -> None:
        self._entries = list(dict(entries).items())

    def __repr__(self) -> str:
        return f"<Macros {', '.join(name for name, _ in self._entries)}>"

    def expand(self, text: str) -> str:
        """Raises Unexpandable for a macro that is not defined, and for a text that grows too long."""
        for name, value in reversed(self._entries):
            slug = f"${{{name}}}"
            if count := text.count(slug):
                word = _word(name, value)
                if len(text) + count * len(word) > MAX_CHARACTERS:
                    raise Unexpandable(f"the macro {name} makes a text of more than {MAX_CHARACTERS} characters")
                text = text.replace(slug, word)
        if found := _MACRO.search(text):
            raise Unexpandable(f"the macro {found[0]} is not defined")
        return text

    def expand_value(self, value: Any) -> Any:
        """As `expand`, for all texts in a value. A text that is one macro alone becomes the macro's value."""
        match value:
            case str():
                alone = _MACRO.fullmatch(value)
                known = dict(self._entries)
                if alone and alone[1] in known and not isinstance(known[alone[1]], str):
                    return known[alone[1]]
                return self.expand(value)
            case Mapping():
                return {self.expand(key): self.expand_value(inner) for key, inner in value.items()}
            case list():
                return [self.expand_value(inner) for inner in value]
        return value


def _word(name: str, value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value)
        case None:
            return ""
    raise Unexpandable(f"the macro {name} is no text and no number")
