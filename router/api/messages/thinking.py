"""PURE: what a request wants about thinking: `thinking`, `output_config.effort`, `context_management`.

The wish goes on in words that a chat request may have too (`proxy.thinking`), which become the control that the model's
template has. An effort counts before a plain "on".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.api.messages.fields import Fields, count_at, list_at, mistake, object_at, type_at

EFFORTS = ("low", "medium", "high", "xhigh", "max")

_CLEAR_THINKING = "clear_thinking_20251015"


@dataclass(frozen=True, slots=True)
class Thinking:
    """`chat` are the fields of a chat completion. `is_on` is None if the request does not say. `is_shown` is False if
    the answer is to say only that the model has thought."""

    chat: dict[str, Any]
    is_on: bool | None = None
    is_shown: bool = True


def thinking_of(fields: Fields, effort: str | None) -> Thinking:
    """`effort` is that of `output_config`."""
    given = fields.get("thinking")
    if given is None:
        return Thinking({"reasoning_effort": effort} if effort else {})
    config = object_at(given, "thinking")
    is_shown = config.get("display") != "omitted"
    match type_at(config, "thinking"):
        case "disabled":
            return _off()
        case "adaptive":
            return Thinking(_on(effort), True, is_shown)
        case "enabled":
            if config.get("budget_tokens") is None:
                return Thinking(_on(effort), True, is_shown)
            budget = count_at(config["budget_tokens"], "thinking.budget_tokens")
            if budget < 1:
                raise mistake("thinking.budget_tokens", "must be at least 1.")
            return Thinking(_on(effort, budget_tokens=budget), True, is_shown)
        case "between_tools":
            return Thinking(_on(effort), True, is_shown) if _ends_with_tool_result(fields) else _off()
        case kind:
            raise mistake("thinking.type", f'"{kind}" is unknown: send "enabled", "adaptive" or "disabled".')


def _on(effort: str | None, **more: int) -> dict[str, Any]:
    level = {"reasoning_effort": effort} if effort else {}
    return {**level, "thinking": {"type": "enabled", **more}}


def _off() -> Thinking:
    return Thinking({"reasoning_effort": "none"}, False)


def _ends_with_tool_result(fields: Fields) -> bool:
    match fields.get("messages"):
        case [*_, {"content": [*blocks]}]:
            return any(isinstance(block, dict) and block.get("type") == "tool_result" for block in blocks)
    return False


def effort_of(output_config: Fields) -> str | None:
    effort = output_config.get("effort")
    if effort is not None and effort not in EFFORTS:
        raise mistake("output_config.effort", f"must be one of {', '.join(EFFORTS)}.")
    return effort


def turns_with_thoughts(fields: Fields) -> int | None:
    """From how many turns of the assistant the thoughts are kept, the last ones; None for all.

    `context_management` says it. Claude Code sends it with every request, to keep all."""
    config = object_at(fields.get("context_management") or {}, "context_management")
    kept: int | None = None
    for number, each in enumerate(list_at(config.get("edits") or [], "context_management.edits")):
        where = f"context_management.edits.{number}"
        edit = object_at(each, where)
        if type_at(edit, where) != _CLEAR_THINKING:
            raise mistake(where, f'"{edit["type"]}" is not available: shorten the conversation before it is sent.')
        match edit.get("keep"):
            case "all" | {"type": "all"}:
                kept = None
            case {"type": "thinking_turns", "value": int(count)} if count > 0:
                kept = count
            case None:
                kept = 1
            case _:
                raise mistake(f"{where}.keep", 'must be "all" or {"type": "thinking_turns", "value": N}.')
    return kept


def forget_thoughts(messages: list[dict[str, Any]], kept: int) -> None:
    """Removes the thoughts of all turns but the last `kept` that have any."""
    with_thoughts = [message for message in messages if "reasoning_content" in message]
    for message in with_thoughts[: len(with_thoughts) - kept]:
        del message["reasoning_content"]
