"""PURE: text from names of files and from command lines, which may hold any bytes, made fit for JSON and for people.

Bytes that are no UTF-8 reach Python as lone surrogates. No JSON can carry these, and no answer of HTTP. Names of models
that come from files are made by `model_name`; texts that mention paths go through `valid`.
"""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")
# C0, DEL and C1; marks without a width, and those that change the direction of text; separators of lines; surrogates.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def valid(text: str) -> str:
    """The text, in which each byte that is no UTF-8 is written as `\\xe9`."""
    return _SURROGATE.sub(_escaped, text) if not text.isascii() else text


def model_name(name: str) -> str:
    """The name of a model, from the name of a file: what nobody can see or type is written as in a URL, such as `%E9`.

    All other names stay as they are.
    """
    return _UNSEEN.sub(_percent, name)


def seen(text: str) -> str:
    """The text in one line, and nothing in it that nobody can see: that becomes a question mark."""
    return _UNSEEN.sub("?", text)


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"


def _percent(found: re.Match[str]) -> str:
    handler = "surrogateescape" if "\udc80" <= found[0] <= "\udcff" else "surrogatepass"
    return "".join(f"%{byte:02X}" for byte in found[0].encode(errors=handler))
