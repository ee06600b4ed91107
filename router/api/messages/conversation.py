"""PURE: `system` and `messages` as the messages of a chat.

A turn of Messages holds what a chat has in several messages: results of tools come first, each as a message of role
`tool`, then what the user says. Turns of the same role that follow each other are one turn, as in Anthropic's API.
System messages in the middle stay where they are: `proxy.gateway` knows what the model's template takes.
"""

from __future__ import annotations

import re
from typing import Any

from router.api.messages.content import Part, block_parts, joined, parts_at, text_part
from router.api.messages.fields import Fields, flag_at, list_at, mistake, name_at, object_at, text_at, type_at
from router.errors import InvalidRequest
from router.proxy.rewrite import encode_json

ChatMessage = dict[str, Any]

# Claude Code puts this line before its system prompt. It is for Anthropic's accounting, and differs in every request:
# left in, nothing that the engine has computed could be used again.
_BILLING = re.compile(r"\Ax-anthropic-billing-header:(?:[ \t]*[\w.-]+=[^;\s]*;)*\s*")


def chat_messages(fields: Fields) -> list[ChatMessage]:
    """The whole conversation."""
    given = list_at(fields.get("messages"), "messages")
    if not given:
        raise InvalidRequest("messages: at least one message is required.")
    chat = _Chat()
    if fields.get("system"):
        chat.add_system(fields["system"], "system")
    for number, message in enumerate(given):
        chat.add(message, f"messages.{number}")
    return chat.messages


def prefill_of(messages: list[ChatMessage]) -> str | None:
    """The beginning of the answer, if the conversation ends with one; it may be empty. The answer goes on from it."""
    if not messages or messages[-1]["role"] != "assistant":  # empty: all that was sent is an empty system message
        return None
    last = messages[-1]
    if "tool_calls" in last:
        ids = ", ".join(call["id"] for call in last["tool_calls"])
        raise InvalidRequest(f"messages: tool_use without tool_result at the end of the conversation: {ids}.")
    return str(last["content"])


class _Chat:
    """Grows by one message of the client after the other."""

    def __init__(self) -> None:
        self.messages: list[ChatMessage] = []
        self._tool_names: dict[str, str] = {}  # by the id of the call

    def __repr__(self) -> str:
        return f"<_Chat {len(self.messages)} messages, {len(self._tool_names)} tool calls>"

    def add(self, message: Any, where: str) -> None:
        fields = object_at(message, where)
        content, place = fields.get("content"), f"{where}.content"
        match fields.get("role"):
            case "user":
                self._add_user(content, place)
            case "assistant":
                self._add_assistant(content, place)
            case "system":
                self.add_system(content, place)
            case _:
                raise mistake(f"{where}.role", 'must be "user", "assistant" or "system".')

    def add_system(self, content: Any, where: str) -> None:
        parts = parts_at(content, where)
        if any(part["type"] != "text" for part in parts):
            raise mistake(where, "a system prompt consists of text.")
        texts = [_BILLING.sub("", part["text"]) for part in parts]
        if text := "\n\n".join(filter(None, texts)):
            self.messages.append({"role": "system", "content": text})

    def _add_user(self, content: Any, where: str) -> None:
        if isinstance(content, str):
            self._append_user([text_part(content)])
            return
        parts: list[Part] = []
        for number, block in enumerate(list_at(content, where)):
            place = f"{where}.{number}"
            if isinstance(block, dict) and block.get("type") == "tool_result":
                self.messages.append(self._tool_result(block, place))
            else:
                parts += block_parts(block, place)
        if parts or not content:
            self._append_user(parts)

    def _append_user(self, parts: list[Part]) -> None:
        last = self.messages[-1] if self.messages else None
        if last and last["role"] == "user":
            before = last["content"]
            last["content"] = joined([*([text_part(before)] if isinstance(before, str) else before), *parts])
        else:
            self.messages.append({"role": "user", "content": joined(parts)})

    def _tool_result(self, block: Fields, where: str) -> ChatMessage:
        id = name_at(block.get("tool_use_id"), f"{where}.tool_use_id")
        parts = parts_at(block.get("content") or [], f"{where}.content")
        if flag_at(block.get("is_error"), f"{where}.is_error"):
            parts = _told_as_error(parts)
        name = self._tool_names.get(id)
        return {"role": "tool", "tool_call_id": id, **({"name": name} if name else {}), "content": joined(parts)}

    def _add_assistant(self, content: Any, where: str) -> None:
        texts, thoughts, calls = [], [], []
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list_at(content, where)
        for number, each in enumerate(blocks):
            place = f"{where}.{number}"
            block = object_at(each, place)
            match type_at(block, place):
                case "text":
                    texts.append(text_at(block.get("text"), f"{place}.text"))
                case "thinking":
                    thoughts.append(text_at(block.get("thinking"), f"{place}.thinking"))
                case "redacted_thinking":
                    pass  # encrypted: only the model that thought it can read it
                case "tool_use":
                    calls.append(self._tool_call(block, place))
                case kind:
                    raise mistake(place, f'a block of type "{kind}" cannot be used in a turn of the assistant.')
        self._append_assistant("\n".join(texts), "\n".join(filter(None, thoughts)), calls)

    def _append_assistant(self, text: str, thoughts: str, calls: list[dict[str, Any]]) -> None:
        last = self.messages[-1] if self.messages else None
        if last and last["role"] == "assistant":
            text = "\n".join(filter(None, (last["content"], text)))
            thoughts = "\n".join(filter(None, (last.get("reasoning_content"), thoughts)))
            calls = [*last.get("tool_calls", ()), *calls]
            self.messages.pop()
        message: ChatMessage = {"role": "assistant", "content": text}
        if thoughts:
            message["reasoning_content"] = thoughts
        if calls:
            message["tool_calls"] = calls
        self.messages.append(message)

    def _tool_call(self, block: Fields, where: str) -> dict[str, Any]:
        id, name = (name_at(block.get(field), f"{where}.{field}") for field in ("id", "name"))
        given = block.get("input")
        arguments = encode_json(object_at({} if given is None else given, f"{where}.input")).decode()
        self._tool_names[id] = name
        return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _told_as_error(parts: list[Part]) -> list[Part]:
    """A chat has no field for a failed tool, so the text says it."""
    first = parts[0] if parts else None
    if first and first["type"] == "text":
        is_told = "error" in first["text"][:40].lower()
        return parts if is_told else [text_part(f"Error: {first['text']}"), *parts[1:]]
    return [text_part("Error: the tool failed."), *parts]
