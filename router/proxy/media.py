"""PURE: pictures, sound and files in a chat, and whether its model takes them.

The engine says that it does not only after the model was loaded, and as a server error, which clients try again. What a
model takes is known before. `chat` calls `may_have_media` with messages that nobody has parsed, then `check`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec

from router.errors import MediaRefused

# The types of parts, and which capability they need; None if the engine takes no part of this type.
NEEDS: dict[str, str | None] = {
    "image_url": "vision",
    "input_audio": "audio",
    "input_video": "vision",
    "file": None,
}
_PHRASES = {
    "image_url": "see images",
    "input_audio": "hear audio",
    "input_video": "watch videos",
    "file": "read files",
}
_QUOTED = {kind: b'"%b"' % kind.encode() for kind in NEEDS}
_FILE_TYPE = re.compile(rb'"type"\s*:\s*"file"')  # "file" alone is a common word


def may_have_media(content: bytes | msgspec.Raw, capabilities: Collection[str]) -> bool:
    """Whether the JSON text of a message's content may hold parts that a model with these capabilities does not
    take."""
    text = memoryview(content)
    if text[:1].tobytes() != b"[":
        return False
    parts = text.tobytes()
    for kind, quoted in _QUOTED.items():
        if NEEDS[kind] not in capabilities and quoted in parts and (kind != "file" or _FILE_TYPE.search(parts)):
            return True
    return False


def check(messages: Any, capabilities: Collection[str], model: str) -> None:
    """Raises MediaRefused for the first part that the model does not take."""
    for index, part in _parts(messages):
        kind = part.get("type")
        if isinstance(kind, str) and kind in NEEDS and NEEDS[kind] not in capabilities:
            needed = NEEDS[kind]
            remedy = "send its text" if needed is None else f"it needs a projector (mmproj) with {needed}"
            exc = MediaRefused(f"{model!r} does not {_PHRASES[kind]}; {remedy}.", kind)
            exc.param = f"messages[{index}].content"
            raise exc


def _parts(messages: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, message in enumerate(messages if isinstance(messages, Sequence) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                yield index, part
