"""PURE: text from outside (names, paths, answers), made fit for one line of a log or a terminal.

It cannot end a line, and cannot colour, move or reverse what a terminal shows.
"""

from __future__ import annotations

import re

# C0, DEL and C1; separators of lines and paragraphs; marks that change the direction of text; surrogates.
_CLASS = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
UNSEEN = re.compile(f"[{_CLASS}]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str) -> str:
    """The text as one line, with escapes for all characters that a terminal would not show."""
    return text if text.isprintable() else text.translate(_ESCAPES)


def _escape(number: int) -> str:
    return _SHORT.get(chr(number)) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")


# A table, because a process may write nothing but such characters: a search for each would hold up all others.
_ESCAPES = {
    number: _escape(number)
    for first, last, only in re.findall("(.)-(.)|(.)", _CLASS, re.DOTALL)
    for number in range(ord(first or only), ord(last or only) + 1)
}
