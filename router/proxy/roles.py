"""PURE: the messages of a chat in an order that the model's template takes.

Agents send system messages in the middle of a conversation, and some templates raise an error for them; others leave
them out in silence. What a template refuses, its text says (`models.template.Roles`). Where it refuses a late system
message, the message becomes a part of the first one; where roles must alternate, neighbours of one role become one
message. No text is lost, and texts keep their order. A conversation that the template takes stays as it is.

`chat` calls this. Messages of a shape that no API has stay as they are: the engine reports the mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from router.models.template import TAKES_ALL, Roles

Message = dict[str, Any]

SYSTEM_ROLES = ("system", "developer")
JOINED_ROLES = ("user", "assistant")
SEPARATOR = "\n\n"  # between two texts that become one
PART_SEPARATOR = "\n"  # between parts of text; the engine adds another one where the template wants one text


def are_taken(given: Sequence[Any], roles: Roles) -> bool:
    """Whether the template takes messages of these roles as they are."""
    systems = [index for index, role in enumerate(given) if role in SYSTEM_ROLES]
    if (not roles.late_system and systems not in ([], [0])) or (not roles.developer and "developer" in given):
        return False
    return roles.repeats or not any(one == other for one, other in pairwise(given) if one in JOINED_ROLES)


def fitting(messages: Sequence[Any], roles: Roles) -> Sequence[Any]:
    """The messages as the template takes them; the same object if it takes them as they are."""
    if roles == TAKES_ALL or not all(isinstance(message, dict) for message in messages):
        return messages
    if not roles.late_system:
        messages = _with_one_system_message(messages)
    if not roles.developer:
        messages = _without_developer(messages)
    return messages if roles.repeats else _alternating(messages)


def _with_one_system_message(messages: Sequence[Message]) -> Sequence[Message]:
    found = [index for index, message in enumerate(messages) if message.get("role") in SYSTEM_ROLES]
    if not found or found == [0]:
        return messages
    first, *others = (messages[index] for index in found)
    joined = _joined(first, *others)
    return [{**joined, "role": first["role"]}, *(each for each in messages if each.get("role") not in SYSTEM_ROLES)]


def _without_developer(messages: Sequence[Message]) -> Sequence[Message]:
    if all(message.get("role") != "developer" for message in messages):
        return messages
    return [{**each, "role": "system"} if each.get("role") == "developer" else each for each in messages]


def _alternating(messages: Sequence[Message]) -> Sequence[Message]:
    result: list[Message] = []
    for message in messages:
        role = message.get("role")
        if result and role in JOINED_ROLES and result[-1].get("role") == role:
            result[-1] = _joined(result[-1], message)
        else:
            result.append(message)
    return result if len(result) < len(messages) else messages


def _joined(first: Message, *others: Message) -> Message:
    """One message with the fields of all: texts after each other, lists of tool calls as one."""
    joined = dict(first)
    for message in others:
        for name, value in message.items():
            if value is None or name == "role":
                continue
            if name == "content":
                joined[name] = _joined_content(joined.get(name), value)
            elif name == "tool_calls" and isinstance(value, list) and isinstance(joined.get(name), list):
                joined[name] = [*joined[name], *value]
            elif name == "reasoning_content" and isinstance(value, str) and isinstance(joined.get(name), str):
                joined[name] = joined[name] + SEPARATOR + value
            else:
                joined.setdefault(name, value)
    return joined


def _joined_content(one: Any, other: Any) -> Any:
    """`content` is a text, a list of parts, or missing."""
    if not one or not other:
        return other or one
    if isinstance(one, str) and isinstance(other, str):
        return one + SEPARATOR + other
    if isinstance(other, str):
        return [*_parts(one), *_parts(PART_SEPARATOR + other)]
    match other:
        case [{"type": "text", "text": str(text)} as part, *rest]:
            return [*_parts(one), {**part, "text": PART_SEPARATOR + text}, *rest]
    return [*_parts(one), *_parts(other)]


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]
