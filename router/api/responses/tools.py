"""PURE: tools and the choice of tools, in a chat's words and back.

A chat knows functions alone. So a custom tool, which takes free text, becomes a function with one text; and a function
of a namespace gets a name that begins with the namespace. `ToolNames` translates calls of such functions back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from router.api.responses.fields import (
    Fields,
    choice,
    flag,
    invalid,
    mapping,
    objects,
    path,
    required_text,
    text,
)

# OpenAI's server runs these tools by itself; clients offer them without being asked to (Codex: web_search,
# image_generation, tool_search). A model that does not see them works as well, so they are left out, and the `tools` of
# the answer do not have them. A client that insists, by `tool_choice`, gets an error.
LEFT_OUT = ("web_search", "image_generation", "tool_search")
CUSTOM_INPUT = "input"  # the one argument of the function that stands for a custom tool


@dataclass(frozen=True, slots=True)
class ToolName:
    """What the client calls a tool."""

    name: str
    namespace: str = ""
    is_custom: bool = False


@dataclass(slots=True)
class Tools:
    """The tools of a request.

    `functions` are a chat's tools, by their names in the chat.
    `names` are the client's names for those that have another name, or are custom tools.
    `shown` are the tools as the answer repeats them.
    """

    functions: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: dict[str, ToolName] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)


def chat_name(name: str, namespace: str) -> str:
    """The name of a function in the chat."""
    if not namespace:
        return name
    return namespace + name if namespace.endswith("__") else f"{namespace}__{name}"


def read_tools(given: list[dict[str, Any]]) -> Tools:
    """Raises InvalidRequest for tools that cannot be served."""
    tools = Tools()
    for index, tool in enumerate(given):
        where = f"tools[{index}]"
        kind = required_text(tool, "type", where)
        if kind.startswith(LEFT_OUT):
            continue
        if kind == "namespace":
            namespace, members = required_text(tool, "name", where), objects(tool, "tools", where)
            shown = [_add(tools, each, f"{where}.tools[{n}]", namespace) for n, each in enumerate(members)]
            description = text(tool, "description", where)
            tools.shown.append({"type": "namespace", "name": namespace, "description": description, "tools": shown})
        else:
            tools.shown.append(_add(tools, tool, where, ""))
    return tools


def _add(tools: Tools, tool: Fields, where: str, namespace: str) -> dict[str, Any]:
    """Adds a function or a custom tool; returns it as the answer shows it."""
    kind = required_text(tool, "type", where)
    if kind not in ("function", "custom"):
        raise invalid(
            f"Tools of the type {kind!r} are not served here. Send tools of the type 'function' or 'custom', and run "
            "them in the client.",
            path(where, "type"),
        )
    name, description = required_text(tool, "name", where), text(tool, "description", where)
    full_name = chat_name(name, namespace)
    function: dict[str, Any] = {"name": full_name}
    shown: dict[str, Any] = {"type": kind, "name": name, "description": description or None}
    if kind == "custom":
        form = mapping(tool, "format", where)
        grammar = _grammar(form, path(where, "format"))
        description = "\n\n".join(filter(None, (description, grammar)))
        wanted = {"type": "object", "properties": {CUSTOM_INPUT: {"type": "string"}}, "required": [CUSTOM_INPUT]}
        shown = {name: value for name, value in shown.items() if value is not None}
        shown |= {"format": dict(form)} if form else {}
    else:
        wanted = dict(mapping(tool, "parameters", where)) or {"type": "object", "properties": {}}
        strict = flag(tool, "strict", False, where) if tool.get("strict") is not None else None
        function |= {} if strict is None else {"strict": strict}
        shown |= {"parameters": wanted, "strict": strict}
    if description:
        function["description"] = description
    if kind == "custom" or namespace:
        tools.names[full_name] = ToolName(name, namespace, kind == "custom")
    tools.functions[full_name] = {"type": "function", "function": {**function, "parameters": wanted}}
    return shown


def _grammar(form: Fields, where: str) -> str:
    """The format of a custom tool as words for the model: the engine has no Lark grammars, and no regexes here."""
    if choice(form, "type", ("text", "grammar"), where) != "grammar":
        return ""
    syntax = choice(form, "syntax", ("lark", "regex"), where)
    return f"The input must match this grammar ({syntax}):\n{required_text(form, 'definition', where)}"


def read_tool_choice(value: Any, tools: Tools) -> str | None:
    """The choice in a chat's words: "auto", "none", "required" or None. A named choice leaves only the named tools in
    `tools`: every engine and every template knows "required". Raises InvalidRequest."""
    if value is None:
        return None
    if value == "none":
        return "none"
    if value in ("auto", "required"):
        mode = str(value)
    elif isinstance(value, dict) and value.get("type") == "allowed_tools":
        mode = choice(value, "mode", ("auto", "required"), "tool_choice") or "auto"
        _keep(tools, objects(value, "tools", "tool_choice"))
    elif isinstance(value, dict):
        mode = "required"
        _keep(tools, [value])
    else:
        raise invalid("'tool_choice' must be 'none', 'auto', 'required' or an object that names a tool.", "tool_choice")
    if mode == "required" and not tools.functions:
        raise invalid("'tool_choice' asks for a call, and there is no tool that can be called.", "tool_choice")
    return mode


def _keep(tools: Tools, wanted: list[dict[str, Any]]) -> None:
    kept = set()
    for one in wanted:
        kind = required_text(one, "type", "tool_choice")
        if kind.startswith(LEFT_OUT) or kind not in ("function", "custom"):
            raise invalid(f"Tools of the type {kind!r} are not served here.", "tool_choice")
        name, namespace = required_text(one, "name", "tool_choice"), text(one, "namespace", "tool_choice")
        full_name = chat_name(name, namespace)
        if full_name not in tools.functions:
            raise invalid(f"'tool_choice' names {name!r}, which is not among the tools.", "tool_choice")
        kept.add(full_name)
    tools.functions = {name: tool for name, tool in tools.functions.items() if name in kept}
