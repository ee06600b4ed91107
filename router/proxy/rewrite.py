"""PURE: what the router changes in a request, for a model whose preset has filters or that thinks only when told to.

Paths are without their `/v1`. A request that needs no change is not looked at any further, and its body goes out as it
came in.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from router.errors import InvalidRequest
from router.models.spec import Filters
from router.proxy.body import LARGE, TOKEN_LIMITS

Fields = dict[str, Any]

CHAT = frozenset({"/chat/completions", "/chat/completions/input_tokens", "/apply-template"})
MESSAGES = frozenset({"/messages", "/messages/count_tokens"})
RESPONSES = frozenset({"/responses", "/responses/input_tokens"})
PATHS = CHAT | MESSAGES | RESPONSES | TOKEN_LIMITS.keys()

# One limit of tokens under many names, of which the engine takes the first; each dialect knows this one.
_LIMITS = frozenset(name for names in TOKEN_LIMITS.values() for name in names)
_LIMIT = "max_tokens"

_BETWEEN = "\n\n"  # what stands behind the prefix and the client's own system message


def filtered(path: str, fields: Mapping[str, Any], filters: Filters) -> Fields:
    """The request with `filters` applied: what is to go goes first, then what is missing is filled in."""
    fields = dict(fields)
    for name in filters.dropped:
        _drop(fields, name)
    for name, value in filters.defaults:
        if all(fields.get(same) is None for same in _names(name)):
            _put(fields, name, value)
    for name, value in filters.forced:
        _put(fields, name, value)
    if filters.system:
        _prefix(path, fields, filters.system)
    return fields


def _names(name: str) -> Collection[str]:
    return _LIMITS if name in _LIMITS else (name,)


def _drop(fields: Fields, name: str) -> None:
    for same in _names(name):
        fields.pop(same, None)


def _put(fields: Fields, name: str, value: str) -> None:
    _drop(fields, name)
    fields[_LIMIT if name in _LIMITS else name] = json.loads(value)


def _prefix(path: str, fields: Fields, text: str) -> None:
    """What is not as the dialect has it stays as it is: the engine tells the client."""
    if path in CHAT and isinstance(fields.get("messages"), list):
        fields["messages"] = _led(fields["messages"], text)
    elif path in MESSAGES:
        fields["system"] = _joined(text, fields.get("system"))
    elif path in RESPONSES:
        fields["instructions"] = _joined(text, fields.get("instructions"))


def _led(messages: list[Any], text: str) -> list[Any]:
    match messages:
        case [{"role": "system" | "developer", **rest}, *others]:
            return [{**messages[0], "content": _joined(text, rest.get("content"))}, *others]
    return [{"role": "system", "content": text}, *messages]


def _joined(text: str, content: Any) -> Any:
    """A text, or a list of parts."""
    if isinstance(content, str) and content:
        return text + _BETWEEN + content
    if isinstance(content, list):
        return [{"type": "text", "text": text + _BETWEEN}, *content]
    return content or text


def asks_to_think(path: str, fields: Mapping[str, Any]) -> bool:
    """Whether the request wants thoughts, in the words of its dialect, and does not say so in the template's."""
    if path in CHAT:
        wish = fields.get("reasoning_effort")
    elif path in RESPONSES:
        wish = _inner(fields, "reasoning").get("effort")
    elif path in MESSAGES:
        kind = _inner(fields, "thinking").get("type")
        wish = kind if kind in ("enabled", "adaptive") else None
    else:
        return False
    said = fields.get("chat_template_kwargs") or {}
    is_open = isinstance(said, dict) and "enable_thinking" not in said
    return is_open and isinstance(wish, str) and wish not in ("", "none")


def thinking(fields: Fields) -> Fields:
    """The request, and its wish in the words of the template."""
    return {**fields, "chat_template_kwargs": {**_inner(fields, "chat_template_kwargs"), "enable_thinking": True}}


def _inner(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def encode(fields: Mapping[str, Any], size: int = 0) -> bytes:
    """`size` is about how many bytes it will be: what is large is written by what is quick with long texts. Raises
    InvalidRequest for what JSON has no words for, although Python reads it."""
    try:
        if size > LARGE and (written := _written(fields)):
            return written
        return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"The request body cannot be passed on as JSON: {exc}.") from exc


def _written(fields: Mapping[str, Any]) -> bytes | None:
    """None for what it does not know how to write, or would write otherwise."""
    try:
        return msgspec.json.encode(fields)
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None
