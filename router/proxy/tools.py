"""PURE: which tools a model may call, in words that the engine takes.

The engine knows `tool_choice` as "auto", "none" and "required", and ignores an object without a word. A request that
names one tool is the same as one that has only this tool and requires a call. `chat` calls this.
"""

from __future__ import annotations

from typing import Any

from router.errors import InvalidField
from router.proxy.body import json_type

Fields = dict[str, Any]

CHOICES = ("auto", "none", "required")


def needs_change(choice: Any) -> bool:
    """Whether `with_choice` would change a request with this `tool_choice`, or refuse it."""
    return choice is not None and choice not in ("auto", "none")


def with_choice(fields: Fields) -> Fields:
    """The request with its `tool_choice` as a word; the same object if it is one already. Raises InvalidField."""
    choice = fields.get("tool_choice")
    if not needs_change(choice):
        return fields
    tools = fields.get("tools") or []
    if choice == "any":  # Mistral's word
        choice = "required"
    if isinstance(choice, str):
        if choice not in CHOICES:
            raise InvalidField("tool_choice", f"must be one of {', '.join(CHOICES)}, or name a tool.")
        if not tools:
            raise InvalidField("tool_choice", 'is "required", and there are no "tools".')
        return {**fields, "tool_choice": choice}
    if not isinstance(choice, dict) or not isinstance(tools, list):
        raise InvalidField("tool_choice", f"must be a string or an object, not {json_type(choice)}.")
    if choice.get("type") == "allowed_tools":
        inner = choice.get("allowed_tools")
        given = inner if isinstance(inner, dict) else choice
        mode, listed = given.get("mode", "auto"), given.get("tools")
        if mode not in CHOICES or not isinstance(listed, list):
            raise InvalidField("tool_choice", 'needs "mode" ("auto" or "required") and a list of "tools".')
        return _with_tools(fields, tools, [_name(each) for each in listed], mode)
    return _with_tools(fields, tools, [_name(choice)], "required")


def _with_tools(fields: Fields, tools: list[Any], names: list[str], choice: str) -> Fields:
    known = {_name_or_none(tool): tool for tool in tools}
    for name in names:
        if name not in known:
            raise InvalidField("tool_choice", f"names the tool {name[:80]!r}, and this request has no such tool.")
    return {**fields, "tools": [known[name] for name in dict.fromkeys(names)], "tool_choice": choice}


def _name(value: Any) -> str:
    name = _name_or_none(value)
    if name is None:
        raise InvalidField("tool_choice", 'must be a word, or {"type": "function", "function": {"name": ...}}.')
    return name


def _name_or_none(value: Any) -> str | None:
    """`{"type": "function", "function": {"name"}}`, or the name beside the type, as in the Responses API."""
    if not isinstance(value, dict):
        return None
    function = value.get("function")
    name = function.get("name") if isinstance(function, dict) else value.get("name")
    return name if isinstance(name, str) else None
