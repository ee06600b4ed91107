"""PURE: the items of a conversation as a chat's messages.

Here a turn of the model is several items: thoughts, text, calls. In a chat it is one message of the assistant, so
items that follow each other are put together. Items come as clients send them: with or without `type`, with text as a
string or in parts, with and without ids. Every mistake of the client is an InvalidRequest.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Any

from router.api.responses.fields import Fields, invalid, mapping, objects, path, required_text, text
from router.api.responses.files import file_as_text
from router.api.responses.tools import CUSTOM_INPUT, chat_name
from router.proxy.rewrite import encode_json

# What OpenAI's server did by itself in an earlier turn. The text that followed says what came of it.
_LEFT_OUT = frozenset(
    [
        *("web_search_call", "file_search_call", "image_generation_call"),
        *("mcp_list_tools", "tool_search_call", "tool_search_output"),
    ]
)
_TEXT_PARTS = frozenset(("input_text", "output_text", "text"))
_OUR_THOUGHTS = "thoughts:"  # begins `encrypted_content` of this router

FindItem = Callable[[str], Fields | None]


def sealed_thoughts(thoughts: str) -> str:
    """Thoughts as `encrypted_content`: for clients that send back nothing else. It hides nothing, as the client got the
    thoughts anyway."""
    return _OUR_THOUGHTS + binascii.b2a_base64(thoughts.encode(errors="replace"), newline=False).decode()


def _opened_thoughts(sealed: str) -> str:
    """Empty for what another server has sealed: only it can read that."""
    if not sealed.startswith(_OUR_THOUGHTS):
        return ""
    try:
        return binascii.a2b_base64(sealed.removeprefix(_OUR_THOUGHTS)).decode(errors="replace")
    except ValueError:
        return ""


def is_reference(item: Fields) -> bool:
    """Whether an item names another one. It may come without a type."""
    kind = item.get("type")
    return kind == "item_reference" or (kind is None and "id" in item and item.keys() <= {"id", "type"})


class Conversation:
    """Collects messages, item after item. `find_item` finds what an `item_reference` names.

    ::

        conversation = Conversation(find_item)
        conversation.add_system("Be brief.")
        conversation.add({"role": "user", "content": "Hello"}, "input[0]")
        conversation.finish()  # [{"role": "system", ...}, {"role": "user", ...}]
    """

    def __init__(self, find_item: FindItem) -> None:
        self._find_item = find_item
        self._messages: list[dict[str, Any]] = []
        self._system: list[str] = []  # the texts before the first other message: they become one message
        self._assistant: dict[str, Any] | None = None  # the last message, to which more items may belong

    def __repr__(self) -> str:
        return f"<Conversation of {len(self._messages)} messages>"

    def add_system(self, words: str) -> None:
        """A system message. Those at the beginning become one: many templates take only one."""
        if self._messages:
            self._append({"role": "system", "content": words})
        elif words:
            self._system.append(words)

    def finish(self, last_words: str = "") -> list[dict[str, Any]]:
        """The messages. `last_words` end the first system message."""
        if (last := self._assistant) is not None and not (last["content"] or "tool_calls" in last):
            self._messages.pop()  # thoughts without an answer: the engine would go on with the empty answer
        texts = [*self._system, last_words] if last_words else self._system
        system = [{"role": "system", "content": "\n\n".join(texts)}] if texts else []
        return [*system, *self._messages]

    def add(self, item: Fields, where: str) -> None:
        kind = text(item, "type", where)
        if not kind:
            kind = "message" if "role" in item else "item_reference" if is_reference(item) else ""
        match kind:
            case "message":
                self._add_message(item, where)
            case "reasoning":
                self._add_thoughts(item, where)
            case "function_call":
                name = chat_name(required_text(item, "name", where), text(item, "namespace", where))
                self._add_call(item, where, name, text(item, "arguments", where) or "{}")
            case "custom_tool_call":
                name = chat_name(required_text(item, "name", where), text(item, "namespace", where))
                arguments = encode_json({CUSTOM_INPUT: text(item, "input", where)}).decode()
                self._add_call(item, where, name, arguments)
            case "function_call_output" | "custom_tool_call_output":
                call_id, content = required_text(item, "call_id", where), self._content(item, "output", where)
                self._append({"role": "tool", "tool_call_id": call_id, "content": content})
            case "item_reference":
                self._add_reference(item, where)
            case _ if kind in _LEFT_OUT:
                pass
            case _:
                raise invalid(
                    f"'{where}' has the type {kind!r}, which is not served here. Send messages, reasoning, function "
                    "calls and their outputs."
                    if kind
                    else f"'{where}' must have a 'type', or a 'role' and 'content'.",
                    path(where, "type"),
                )

    def _add_message(self, item: Fields, where: str) -> None:
        match item.get("role"):
            case "user":
                self._append({"role": "user", "content": self._content(item, "content", where)})
            case "system" | "developer":
                self.add_system(self._only_text(item, "content", where))
            case "assistant":
                words, turn = self._only_text(item, "content", where), self._turn()
                turn["content"] = "\n\n".join(filter(None, (turn["content"], words)))
            case _:
                raise invalid(f"'{where}.role' must be one of user, assistant, system, developer.", path(where, "role"))

    def _add_thoughts(self, item: Fields, where: str) -> None:
        """From the thoughts themselves, or else from the copy for us, or else from their summary."""
        content, summary = (
            "\n".join(text(part, "text", where) for part in objects(item, name, where))
            for name in ("content", "summary")
        )
        thoughts = content or _opened_thoughts(text(item, "encrypted_content", where)) or summary
        if not thoughts:
            return
        turn = self._turn()
        before = turn.get("reasoning_content")
        turn["reasoning_content"] = f"{before}\n\n{thoughts}" if before else thoughts

    def _add_call(self, item: Fields, where: str, name: str, arguments: str) -> None:
        call_id = required_text(item, "call_id", where)
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._turn().setdefault("tool_calls", []).append(call)

    def _add_reference(self, item: Fields, where: str) -> None:
        id = required_text(item, "id", where)
        found = self._find_item(id)
        if found is None:
            raise invalid(
                f"Item {id[:80]!r} is not known here, or not any more, or was named twice: send the item itself. "
                "Items are kept for some time, and not if 'store' is false.",
                path(where, "id"),
            )
        self.add(found, where)

    def _turn(self) -> dict[str, Any]:
        """The assistant's message to which the next item belongs."""
        if self._assistant is None:
            self._assistant = {"role": "assistant", "content": ""}
            self._messages.append(self._assistant)
        return self._assistant

    def _append(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        self._assistant = None

    def _only_text(self, item: Fields, name: str, where: str) -> str:
        content = self._content(item, name, where)
        if isinstance(content, str):
            return content
        if any(part["type"] != "text" for part in content):
            raise invalid(f"'{path(where, name)}' must be text for this role.", path(where, name))
        return "\n".join(part["text"] for part in content)

    def _content(self, item: Fields, name: str, where: str) -> str | list[dict[str, Any]]:
        """A text, or several parts."""
        value = item.get(name)
        if value is None or isinstance(value, str):
            return value or ""
        where = path(where, name)
        if not isinstance(value, list):
            raise invalid(f"'{where}' must be a string or a list of parts.", where)
        parts = [_part(part, f"{where}[{index}]") for index, part in enumerate(value)]
        match parts:
            case []:
                return ""
            case [{"type": "text", "text": only}]:
                return str(only)
        return parts


def _part(part: Any, where: str) -> dict[str, Any]:
    """A part of a message in a chat's words."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise invalid(f"'{where}' must be an object.", where)
    kind = required_text(part, "type", where)
    match kind:
        case _ if kind in _TEXT_PARTS:
            return {"type": "text", "text": text(part, "text", where)}
        case "refusal":
            return {"type": "text", "text": text(part, "refusal", where)}
        case "input_image":
            if text(part, "file_id", where):
                raise invalid(
                    f"'{where}.file_id' is not supported: no files are kept here. Send 'image_url', which may be a "
                    "data URL.",
                    path(where, "file_id"),
                )
            return {"type": "image_url", "image_url": {"url": required_text(part, "image_url", where)}}
        case "input_audio":
            return {"type": "input_audio", "input_audio": dict(mapping(part, "input_audio", where))}
        case "input_file":
            return {"type": "text", "text": file_as_text(part, where)}
    raise invalid(f"'{where}' has the type {kind!r}, which is not served here.", path(where, "type"))
