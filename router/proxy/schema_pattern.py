"""PURE: regular expressions of JSON schemas, in the part of their language that the engines' grammars know.

llama-server (b11434) drops a pattern without a word if it is not anchored at both ends, or has `\\d`, `\\w` or an
escaped slash; it takes `.` for quotes too, which end the text too early. So patterns are written anew: anchored, with
classes of characters, and with none that JSON would have to escape. What cannot be written so (looking ahead and
behind, word boundaries, references) is None. `schema_words` calls this.
"""

from __future__ import annotations

from functools import lru_cache

MAX_CHARS = 10_000

_NEVER = r"\x22\x5C\x00-\x1F\x7F"  # what JSON escapes in a text
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": " "}
_ANY = f"[^{_NEVER}]"
_IN_CLASS = frozenset("]^-[\\")  # characters that mean something in a class
_PLAIN = frozenset(" !#%&',/:;<=>@_`~-")  # characters that need no escape, and are escaped at times
_SPECIAL = frozenset(".*+?()[]{}|^$")


class _Unknown(Exception):
    """A part of a pattern that grammars do not have."""


@lru_cache(maxsize=32)  # a schema may use one pattern in many places, and is read several times
def rewritten(pattern: str) -> str | None:
    """The pattern as both engines read it; None if they cannot."""
    if len(pattern) > MAX_CHARS:
        return None
    try:
        return _Writer(pattern).write()
    except (_Unknown, IndexError, ValueError):
        return None


class _Writer:
    def __init__(self, pattern: str) -> None:
        self._text, self._at = pattern, 0

    def write(self) -> str:
        """Raises _Unknown, IndexError for a pattern that ends too early, ValueError."""
        starts = self._text.startswith("^")
        self._at = 1 if starts else 0
        body, has_choice = self._sequence(0)
        ends = self._text[self._at :] == "$"
        if self._at != len(self._text) and not ends:
            raise _Unknown
        if has_choice and (starts or ends):
            raise _Unknown  # `^a|b$` means `^a` or `b$`
        body = f"({body})" if has_choice else body
        return f"^{'' if starts else _ANY + '*'}{body}{'' if ends else _ANY + '*'}$"

    def _sequence(self, depth: int) -> tuple[str, bool]:
        """Up to the end, a closing bracket, or `$`; and whether it is a choice."""
        if depth > 50:
            raise _Unknown
        found, has_choice = [], False
        while self._at < len(self._text) and self._text[self._at] not in ")$":
            if self._text[self._at] == "|":
                self._at += 1
                has_choice = True
                found.append("|")
                continue
            found.append(self._one(depth) + self._quantifier())
        return "".join(found), has_choice

    def _one(self, depth: int) -> str:
        char = self._next()
        match char:
            case "(":
                return self._group(depth)
            case "[":
                return self._set()
            case ".":
                return _ANY
            case "\\":
                return self._escape()
            case "^" | "*" | "+" | "?" | "{" | '"':
                raise _Unknown
        if ord(char) < 0x20:
            raise _Unknown
        return f"\\{char}" if char in _SPECIAL else char

    def _group(self, depth: int) -> str:
        if self._text.startswith("?:", self._at):
            self._at += 2
        elif self._text.startswith(("?<", "?P<"), self._at) and self._text[self._at + 2] not in "=!":
            self._at = self._text.index(">", self._at) + 1  # its name is for others
        elif self._text.startswith("?", self._at):
            raise _Unknown
        body, _ = self._sequence(depth + 1)
        if self._next() != ")":
            raise _Unknown
        return f"({body})"

    def _escape(self) -> str:
        char = self._next()
        if char in _CLASSES:
            return f"[{_CLASSES[char]}]"
        if char.lower() in _CLASSES:
            return f"[^{_CLASSES[char.lower()]}{_NEVER}]"
        if char in "xu":
            return self._literal(self._code(2 if char == "x" else 4))
        if char in _SPECIAL or char in _PLAIN:
            return self._literal(char)
        raise _Unknown

    def _literal(self, char: str) -> str:
        if ord(char) < 0x20 or char in '"\\':
            raise _Unknown
        return f"\\{char}" if char in _SPECIAL else char

    def _set(self) -> str:
        is_negated = self._text[self._at] == "^"
        self._at += is_negated
        parts: list[str] = []
        while (char := self._next()) != "]" or not parts:
            if char == "\\":
                parts.append(self._escape_in_set())
            elif char == "[" and self._text[self._at] in ":.=":
                raise _Unknown
            elif char in '"' or ord(char) < 0x20:
                if not is_negated:
                    raise _Unknown
            else:
                parts.append(f"\\x{ord(char):02X}" if char in "[]^" else char)
        if is_negated and parts[-1:] == ["-"]:
            parts[-1] = r"\x2D"  # what follows would make a range of it
        inner = "".join(_with_sound_ranges(parts))
        return f"[^{inner}{_NEVER}]" if is_negated else f"[{inner}]"

    def _escape_in_set(self) -> str:
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char]
        char = self._code(2 if char == "x" else 4) if char in "xu" else char
        if char.isalnum() or ord(char) < 0x20 or char in '"\\':
            if char.isalnum() and self._text[self._at - 1] != char:
                return char  # it was a code
            raise _Unknown
        return f"\\x{ord(char):02X}" if char in _IN_CLASS else char

    def _quantifier(self) -> str:
        found = ""
        if self._at < len(self._text) and self._text[self._at] in "*+?":
            found = self._next()
        elif self._at < len(self._text) and self._text[self._at] == "{":
            end = self._text.index("}", self._at)
            low, comma, high = self._text[self._at + 1 : end].partition(",")
            found = f"{{{int(low or 0)}{comma}{int(high) if high else ''}}}"
            self._at = end + 1
        if found and self._at < len(self._text) and self._text[self._at] in "?+":
            if self._text[self._at] == "+":
                raise _Unknown
            self._at += 1  # lazy or not, the same texts fit
        return found

    def _code(self, digits: int) -> str:
        code = int(self._text[self._at : self._at + digits], 16)
        self._at += digits
        return chr(code)

    def _next(self) -> str:
        char = self._text[self._at]
        self._at += 1
        return char


def _with_sound_ranges(parts: list[str]) -> list[str]:
    """The parts of a set, in which a `-` beside a class of characters is only itself. Raises _Unknown for a range that
    goes backwards."""
    found, at = list(parts), 1
    while at < len(parts) - 1:
        if parts[at] != "-":
            at += 1
            continue
        least, most = _code_of(parts[at - 1]), _code_of(parts[at + 1])
        if least is None or most is None:
            found[at] = r"\x2D"
            at += 1
            continue
        if most < least:
            raise _Unknown
        at += 3  # a `-` after a range is itself
    return found


def _code_of(part: str) -> int | None:
    """None for a class of characters."""
    if part.startswith("\\x"):
        return int(part[2:], 16)
    return ord(part) if len(part) == 1 else None
