"""PURE: the changes that the router makes to a request, because of its model's preset.

A preset may have filters: fields to drop, to fill in or to force, and, for chats, a system message.
What clients themselves want of a model is the matter of `chat`.

Paths come without `/v1`. Requests of Messages and Responses come as the chat completions that they have become. If
nothing changes, the body goes out as it came in. `gateway` calls this.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from router.errors import InvalidRequest
from router.models.spec import Filters
from router.proxy.body import LARGE_BYTES
from router.proxy.routing import TOKEN_LIMIT_FIELDS

Fields = dict[str, Any]

CHAT = frozenset({"/chat/completions", "/chat/completions/input_tokens", "/apply-template"})
VECTORS = frozenset({"/embeddings", "/embedding", "/rerank", "/reranking"})
# All whose body is JSON, names the model, and asks it for something. Not those about the process itself, such as
# /slots, and not forms with sound.
PATHS = CHAT | VECTORS | {"/tokenize", "/detokenize"} | TOKEN_LIMIT_FIELDS.keys()

# The token limit has many names, and llama-server takes the first that it finds. So a filter for one of them concerns
# all. A forced limit is written under the name that every dialect knows.
_LIMIT_NAMES = frozenset(name for names in TOKEN_LIMIT_FIELDS.values() for name in names)
_COMMON_LIMIT_NAME = "max_tokens"

_SYSTEM_SEPARATOR = "\n\n"  # between the preset's system message and the client's own


def apply_filters(path: str, fields: Mapping[str, Any], filters: Filters) -> Fields:
    """The request after `filters`. Fields are dropped before missing ones are filled in."""
    fields = dict(fields)
    for name in filters.dropped:
        _drop(fields, name)
    for name, value in filters.defaults:
        if all(fields.get(same) is None for same in _same_field(name)):
            _set(fields, name, value)
    for name, value in filters.forced:
        _set(fields, name, value)
    # Messages in another shape stay as they are: llama-server reports the mistake.
    if path in CHAT and isinstance(messages := fields.get("messages"), list):
        if filters.messages or filters.default_system:
            messages = _with_first_messages(messages, filters)
        if filters.system:
            messages = _with_system_message(messages, filters.system)
        fields["messages"] = messages
    return fields


def _same_field(name: str) -> Collection[str]:
    """All names of a field."""
    return _LIMIT_NAMES if name in _LIMIT_NAMES else (name,)


def _drop(fields: Fields, name: str) -> None:
    for same in _same_field(name):
        fields.pop(same, None)


def _set(fields: Fields, name: str, value: str) -> None:
    _drop(fields, name)
    fields[_COMMON_LIMIT_NAME if name in _LIMIT_NAMES else name] = json.loads(value)


def _with_first_messages(messages: list[Any], filters: Filters) -> list[Any]:
    """The default system message, and then the examples, before the first message that is no system message."""
    examples = json.loads(filters.messages) if filters.messages else []
    match messages:
        case [{"role": "system" | "developer"} as system, *others]:
            return [system, *examples, *others]
    system = [{"role": "system", "content": filters.default_system}] if filters.default_system else []
    return [*system, *examples, *messages]


def _with_system_message(messages: list[Any], text: str) -> list[Any]:
    match messages:
        case [{"role": "system" | "developer", **rest}, *others]:
            return [{**messages[0], "content": _prefixed(text, rest.get("content"))}, *others]
    return [{"role": "system", "content": text}, *messages]


def _prefixed(text: str, content: Any) -> Any:
    """`content` is a text or a list of parts."""
    if isinstance(content, str) and content:
        return text + _SYSTEM_SEPARATOR + content
    if isinstance(content, list):
        return [{"type": "text", "text": text + _SYSTEM_SEPARATOR}, *content]
    return content or text


def encode_json(fields: Mapping[str, Any], size: int = 0) -> bytes:
    """`size` is about how many bytes it will be; msgspec is quicker with long texts. Raises InvalidRequest for values
    that Python reads and JSON cannot express."""
    try:
        if size > LARGE_BYTES and (encoded := _encode_quickly(fields)):
            return encoded
        return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"The request body cannot be passed on as JSON: {exc}.") from exc


def _encode_quickly(fields: Mapping[str, Any]) -> bytes | None:
    """None for what msgspec cannot write."""
    try:
        return msgspec.json.encode(fields)
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None
