"""PURE: finds the texts in a child's events without parsing each of them.

Nearly all events of a stream differ in one string alone: the next piece of text. So one of them is parsed, and what
stands before and behind its text is remembered. As long as the same bytes come again, the texts between them are cut
out, many at a time. That is exact, not a guess: bytes that were JSON around one string are JSON around another one, if
that has no quotes, no escapes and no control characters. Every other event is to be parsed.

APIs whose streams are made of a child's chat completions use this.
"""

from __future__ import annotations

import re

_PLAIN_ASCII = re.compile(rb"[ !#-\[\]-~]*")


class TextRuns:
    """Knows the events around one field, such as `content`::

    runs = TextRuns("content")
    runs.learn(b'data: {"delta":{"content":"one"}}', "one")
    runs.texts(b'data: {"delta":{"content":"two"}}\\n\\n')   # b"two", as a list
    """

    def __init__(self, field: str) -> None:
        self._mark = f'"{field}":"'.encode()
        self._begin = self._end = self._between = b""
        self._text = slice(0, 0)  # where the text stands in an event

    def __repr__(self) -> str:
        return f"<TextRuns {self._begin[-20:]!r}...{self._end[:20]!r}>"

    def learn(self, line: bytes, text: str) -> None:
        """`line` is an event whose only text is `text`, the value of the field."""
        before, mark, rest = line.partition(self._mark)
        written = text.encode(errors="replace")
        if mark and self._mark not in rest and _is_plain(written) and rest.startswith(written + b'"'):
            self._begin, self._end = before + mark, rest[len(written) :] + b"\n\n"
            self._between = self._end + self._begin
            self._text = slice(len(self._begin), 2 - len(self._end))

    def texts(self, data: bytes) -> list[bytes] | None:
        """The texts of all events in `data`, each as it stands in JSON without its quotes. None if the data hold
        anything else than such events, or a part of one."""
        begin, end = self._begin, self._end
        if not begin or not data.startswith(begin) or not data.endswith(end):
            return None
        events = data.split(b"\n\n")  # counted below, because a search for a long separator at each event is slower
        events.pop()
        if len(events) > 1 and data.count(self._between) != len(events) - 1:
            return None
        cut = self._text
        texts = [event[cut] for event in events]
        return texts if _is_plain(b"".join(texts)) else None


def _is_plain(text: bytes) -> bool:
    """Whether JSON writes this text as it is."""
    if _PLAIN_ASCII.fullmatch(text):
        return True
    try:
        return b'"' not in text and b"\\" not in text and text.decode().isprintable()
    except UnicodeDecodeError:
        return False
