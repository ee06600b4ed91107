"""PURE: the messages of an Ollama chat as OpenAI's messages, with images and tool calls.

OpenAI's messages give each tool call an id, and each tool result the id of its call. Ollama's messages may lack both,
so they are made here. Every mistake of the client is an InvalidRequest.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Any

from router.api.ollama.fields import Fields, text
from router.errors import InvalidRequest
from router.proxy.rewrite import encode_json

ROLES = ("system", "user", "assistant", "tool")

_IMAGE_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"BM": "bmp", b"RIFF": "webp"}


class MessageTranslator:
    """Translates a conversation, one message after the other from its beginning.

    Ids of tool calls are counted, so they stay the same when the conversation goes on, and the engine's prompt cache
    still fits."""

    def __init__(self) -> None:
        self._call_count = 0
        self._open_calls: list[tuple[str, str]] = []  # ids and names of calls without a result
        self._own_ids: set[str] = set()  # of calls that came without an id

    def __repr__(self) -> str:
        return f"<MessageTranslator {self._call_count} tool calls, {len(self._open_calls)} without a result>"

    def translate(self, message: Any) -> dict[str, Any]:
        role = message.get("role") if isinstance(message, dict) else None
        role = role.lower() if isinstance(role, str) else None
        if role not in ROLES:
            raise InvalidRequest(f'Each message must be an object whose "role" is one of {", ".join(ROLES)}.')
        content, thinking = text(message, "content"), text(message, "thinking")
        translated: dict[str, Any] = {"role": role, "content": content}
        if images := message.get("images"):
            parts = [{"type": "text", "text": content}] if content else []
            translated["content"] = [*_image_parts(images), *parts]
        if thinking:
            translated["reasoning_content"] = thinking
        if calls := message.get("tool_calls"):
            translated["tool_calls"] = self._tool_calls(calls)
        return translated | (self._result_of(message) if role == "tool" else {})

    def _tool_calls(self, calls: Any) -> list[dict[str, Any]]:
        mistake = '"tool_calls" must be a list of {"function": {"name", "arguments": {}}}.'
        if not isinstance(calls, list):
            raise InvalidRequest(mistake)
        translated = []
        for call in calls:
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise InvalidRequest(mistake)
            arguments = function.get("arguments") or {}
            if not isinstance(arguments, str):
                arguments = encode_json(arguments).decode()
            self._call_count += 1
            # Nine letters and digits: some templates (Mistral's) accept nothing else.
            name, id = function["name"], text(call, "id")
            if not id:
                id = f"call{self._call_count:05d}"
                self._own_ids.add(id)
            self._open_calls.append((id, name))
            translated.append({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        return translated

    def _result_of(self, message: Fields) -> dict[str, Any]:
        """The id and the name of the call that a tool message answers.

        With an id it answers that call. With a name alone it answers the first open call of that name, else the first
        open call. If no call has its id, it answers the first open call that came without one (LiteLLM leaves out the
        ids of calls, and keeps those of results)."""
        name, id = text(message, "tool_name") or text(message, "name"), text(message, "tool_call_id")
        candidates = [call for call in self._open_calls if id == call[0] or (not id and name == call[1])]
        if not candidates:
            candidates = [call for call in self._open_calls if not id or call[0] in self._own_ids]
        if candidates:
            found = candidates[0]
            self._open_calls.remove(found)
            id, name = found[0], name or found[1]
        return {**({"tool_call_id": id} if id else {}), **({"name": name} if name else {})}


def _image_parts(images: Any) -> list[dict[str, Any]]:
    if not isinstance(images, Sequence) or isinstance(images, str) or not all(isinstance(i, str) for i in images):
        raise InvalidRequest('"images" must be a list of strings, images in base64.')
    return [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]


def _data_url(image: str) -> str:
    """Ollama's clients send plain base64, which may be broken into lines; some send a data URL. The engine wants a data
    URL with the image's type."""
    image = image.partition(",")[2] if image[:5].lower() == "data:" else image
    image = "".join(image.split())
    try:
        data = binascii.a2b_base64(image, strict_mode=True)
    except ValueError as exc:
        raise InvalidRequest(f"An image is not valid base64: {exc}.") from exc
    kind = next((kind for magic, kind in _IMAGE_TYPES.items() if data.startswith(magic)), None)
    if kind is None:
        raise InvalidRequest("An image has an unknown format: send PNG, JPEG, WebP, GIF or BMP.")
    return f"data:image/{kind};base64,{image}"
