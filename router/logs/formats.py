"""Records of the log as lines: as text for people, or as JSON for programs.

A record is one line. As text a traceback has lines of its own; the message of an exception is one of them. A JSON line
is an object with `time`, `level`, `logger`, `message`, then `model` and `request_id` if the line belongs to one, then
the fields that the record was given, and `exception`. It is valid UTF-8 without any control character, whatever names
and answers hold. Times are RFC 3339 with the zone.

`streams` chooses one of the formats; it is read from `--log-format`.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
import traceback
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from router.logs import request_ids
from router.logs.letters import UNSEEN, visible
from router.redaction import without_credentials

MAX_MESSAGE_CHARACTERS = 32 << 10
MAX_FIELD_CHARACTERS = 4 << 10

# Lines of a traceback that the interpreter itself writes.
_PLACE = re.compile(r'[ |+-]*File "|[ |+-]*(?:Exception Group )?Traceback ')


class Format(Protocol):
    """How records of the log, and what is written beside them, become lines."""

    def format(self, record: logging.LogRecord) -> str: ...

    def say(self, text: str) -> str:
        """A line for the person who started the program."""

    def note(self, text: str) -> str:
        """A warning of the log about itself, written now."""


class TextFormat:
    """`TIME L LOGGER: MESSAGE`, with `[REQUEST ID]` after the logger; L is the first letter of the level."""

    def format(self, record: logging.LogRecord) -> str:
        _, id = _belongs_to(record)
        name = f"{record.name} [{id}]" if id else record.name
        line = visible(f"{stamp(record.created)} {record.levelname[0]} {name}: {_message(record)}")
        return f"{line}\n{exception}" if (exception := _exception(record)) else line

    def say(self, text: str) -> str:
        return visible(without_credentials(text))

    def note(self, text: str) -> str:
        return visible(f"{stamp(time.time())} W router.logs: {text}")


class JsonFormat:
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        model, id = _belongs_to(record)
        return _json_line(
            record.created,
            record.levelname.lower(),
            record.name,
            visible(_message(record)),
            {
                **({"model": model} if model else {}),
                **({"request_id": id} if id else {}),
                **_fields(record),
                **({"exception": exception} if (exception := _exception(record)) else {}),
            },
        )

    def say(self, text: str) -> str:
        return _json_line(time.time(), "info", "router", visible(without_credentials(text)), {})

    def note(self, text: str) -> str:
        return _json_line(time.time(), "warning", "router.logs", visible(text), {})


FORMATS: Mapping[str, Format] = {"text": TextFormat(), "json": JsonFormat()}


def stamp(seconds: float) -> str:
    """RFC 3339, in the zone of this machine, to the millisecond."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "milliseconds")


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if len(text) > MAX_MESSAGE_CHARACTERS:
        text = f"{text[:MAX_MESSAGE_CHARACTERS]} ... ({len(text) - MAX_MESSAGE_CHARACTERS} more characters)"
    return without_credentials(text)


def _exception(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return ""
    pieces = traceback.format_exception(error)
    lines = (line for piece in pieces for line in (piece.splitlines() if _PLACE.match(piece) else [piece.strip()]))
    return "\n".join(visible(without_credentials(line[:MAX_MESSAGE_CHARACTERS])) for line in lines)


def _belongs_to(record: logging.LogRecord) -> tuple[str, str]:
    """The model and the request id of a record, each empty if it has none."""
    given = record.__dict__
    model, id = given.get("model") or "", given.get("request_id")
    return str(model)[:MAX_FIELD_CHARACTERS], request_ids.current() if id is None else str(id)[:MAX_FIELD_CHARACTERS]


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = record.__dict__.get("fields")
    return {str(name): _value(value) for name, value in fields.items()} if isinstance(fields, Mapping) else {}


def _value(value: Any) -> Any:
    """As JSON can say it, and of no great length."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(name): _value(part) for name, part in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_value(part) for part in value]
        case _:
            return str(value)[:MAX_FIELD_CHARACTERS]


def _json_line(seconds: float, level: str, logger: str, message: str, more: Mapping[str, Any]) -> str:
    own = {"time": stamp(seconds).replace(" ", "T"), "level": level, "logger": logger, "message": message}
    more = {name: value for name, value in more.items() if name not in own}
    text = json.dumps({**own, **more}, ensure_ascii=False, separators=(",", ":"))
    return without_credentials(text if text.isprintable() else UNSEEN.sub(_escaped, text))


def _escaped(found: re.Match[str]) -> str:
    """Half of a pair, which is what a byte that is no UTF-8 has become, has no escape that every reader takes."""
    number = ord(found[0])
    return "\ufffd" if 0xD800 <= number <= 0xDFFF else f"\\u{number:04x}"
