"""PURE: `tools` and `tool_choice` in the words of a chat completion.

Tools that the client runs are passed on. Tools that run on Anthropic's servers (web search, code execution) are an
error: nobody here would run them. Claude Code uses none of them in its conversation; its WebSearch is a tool of its
own, which asks for `web_search` in a request of its own, and then reports this error to the model.
"""

from __future__ import annotations

import json
from typing import Any

from router.api.messages.fields import Fields, flag_at, list_at, mistake, name_at, object_at, text_at


def chat_tools(fields: Fields) -> dict[str, Any]:
    """`tools`, `tool_choice` and `parallel_tool_calls`, as far as the request says anything of them."""
    given = list_at([] if fields.get("tools") is None else fields["tools"], "tools")
    found = _referenced_tools(fields.get("messages")) if any(_is_deferred(tool) for tool in given) else frozenset()
    tools = [
        _tool(tool, f"tools.{number}")
        for number, tool in enumerate(given)
        if not _is_deferred(tool) or tool.get("name") in found
    ]
    choice = object_at(fields.get("tool_choice") or {}, "tool_choice")
    translated = _choice(choice, tools) if choice else {}
    return {**translated, "tools": tools} if tools else translated


def _choice(choice: Fields, tools: list[dict[str, Any]]) -> dict[str, Any]:
    kind = choice.get("type")
    if kind not in ("auto", "any", "tool", "none"):
        raise mistake("tool_choice.type", 'must be "auto", "any", "tool" or "none".')
    if not tools:
        if kind in ("any", "tool"):
            raise mistake("tool_choice", f'"{kind}" needs tools.')
        return {}
    translated: dict[str, Any] = {"tool_choice": "required" if kind == "any" else kind}
    if kind == "tool":
        name = name_at(choice.get("name"), "tool_choice.name")
        translated["tool_choice"] = {"type": "function", "function": {"name": name}}
    if flag_at(choice.get("disable_parallel_tool_use"), "tool_choice.disable_parallel_tool_use"):
        translated["parallel_tool_calls"] = False
    return translated


def _tool(value: Any, where: str) -> dict[str, Any]:
    tool = object_at(value, where)
    kind = text_at(tool.get("type") or "custom", f"{where}.type")
    if kind != "custom":
        raise mistake(
            where,
            f'tools of type "{kind}" are not available: send a tool with "name", "description" and "input_schema".',
        )
    callers = list_at(tool.get("allowed_callers") or ["direct"], f"{where}.allowed_callers")
    if "direct" not in callers:
        raise mistake(f"{where}.allowed_callers", "there is no code execution here that could call a tool.")
    name = name_at(tool.get("name"), f"{where}.name")
    description = text_at(tool.get("description") or "", f"{where}.description")
    schema = object_at(tool.get("input_schema"), f"{where}.input_schema")
    if examples := list_at(tool.get("input_examples") or [], f"{where}.input_examples"):
        shown = "\n".join(json.dumps(example, ensure_ascii=False) for example in examples)
        description = f"{description}\n\nExamples of input:\n{shown}"
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def _is_deferred(tool: Any) -> bool:
    """Whether the model may use this tool only after a search has found it."""
    return isinstance(tool, dict) and tool.get("defer_loading") is True


def _referenced_tools(messages: Any) -> frozenset[str]:
    """The tools that searches have found: the results of the client's own search tool name them."""
    found: set[str] = set()
    for message in messages if isinstance(messages, list) else ():
        for block in _list(message, "content"):
            found.update(
                name
                for each in _list(block, "content")
                if isinstance(each, dict) and isinstance(name := each.get("tool_name"), str)
            )
    return frozenset(found)


def _list(value: Any, name: str) -> list[Any]:
    inner = value.get(name) if isinstance(value, dict) else None
    return inner if isinstance(inner, list) else []
