"""PURE: lines that a llama-server writes: how bad each is, and how they are shown to people.

The format is that of llama.cpp b11434 (common/log.cpp): `0.00.015.298 E srv  load_model: ...`. `--log-timestamps off`
takes the time away, `--log-prefix off` the letter as well, `--log-colors on` adds colours, and `--log-jsonl` makes
objects of the lines. What libraries write has no letter, so it is judged by its words.

Called by the pool's `logs` for all lines of a process that have come at once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

from router.logs.letters import visible
from router.redaction import without_credentials

# The letters of llama.cpp's log, and the words of its JSON.
_LEVELS: Mapping[str, int] = {
    "D": logging.DEBUG,
    "I": logging.INFO,
    "W": logging.WARNING,
    "E": logging.ERROR,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_PREFIX = re.compile(r'(?:\d[\d.]* )?([DIWE]) |\{"type":"log",(?:"time":\d+,)?"level":"(\w+)"')
_ERROR = re.compile(
    r"\b(?:error|fatal|failed|failure|abort(?:ed|ing)?|exception|panic|terminate called|traceback|segmentation fault"
    r"|core dumped|out of memory|bad_alloc|assert(?:ion)?|GGML_ASSERT|cannot|could(?:n't| not)|unable to|killed)\b",
    re.IGNORECASE,
)
_WARNING = re.compile(r"\b(?:warn(?:ing)?|deprecated)\b", re.IGNORECASE)
_STYLES = re.compile("\x1b\\[[0-9;:]*m")  # colours, which say nothing here


def shown(lines: Sequence[bytes]) -> list[str]:
    """The lines as people may read them: no colours, no control characters, no credentials of URLs."""
    text = b"\n".join(lines).decode(errors="replace")
    if "\x1b" in text:
        text = _STYLES.sub("", text)
    if "\t" in text or "\r" in text:
        text = text.replace("\t", "    ").replace("\r\n", "\n").removesuffix("\r")
    text = without_credentials(text)
    found = text.split("\n")
    # One look at all lines is cheaper than one at each; most need nothing more.
    return found if text.replace("\n", "").isprintable() else list(map(visible, found))


def level_of(line: str) -> int:
    """How bad this line is, as a level of `logging`. A line that does not say so and looks harmless is INFO."""
    if found := _PREFIX.match(line):
        return _LEVELS.get(found[1] or found[2], logging.INFO)
    if _ERROR.search(line):
        return logging.ERROR
    return logging.WARNING if _WARNING.search(line) else logging.INFO
