"""PURE: text, images and documents as parts of a chat message.

A document becomes text, within tags that carry its title. What no model here can read (a PDF, a file of Anthropic's
Files API) is an error. `cache_control` is ignored: the engine keeps what it has computed by itself.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from router.api.messages.fields import Fields, flag_at, list_at, mistake, name_at, object_at, text_at, type_at

Part = dict[str, Any]  # {"type": "text", "text"} or {"type": "image_url", "image_url": {"url"}}

IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def parts_at(content: Any, where: str) -> list[Part]:
    """The parts of a text or of a list of blocks."""
    if isinstance(content, str):
        return [text_part(content)] if content else []
    blocks = list_at(content, where)
    return [part for number, block in enumerate(blocks) for part in block_parts(block, f"{where}.{number}")]


def block_parts(block: Any, where: str) -> list[Part]:
    """The parts of one block that holds something to read."""
    fields = object_at(block, where)
    match type_at(fields, where):
        case "text":
            text = text_at(fields.get("text"), f"{where}.text")
            return [text_part(text)] if text else []
        case "image":
            return [_image(fields, where)]
        case "document":
            return _document(fields, where)
        case "search_result":
            return _search_result(fields, where)
        case "tool_reference":
            name = name_at(fields.get("tool_name"), f"{where}.tool_name")
            return [text_part(f"The tool {name} can be used now.")]
        case kind:
            raise mistake(where, f'a block of type "{kind}" cannot be used here.')


def text_part(text: str) -> Part:
    return {"type": "text", "text": text}


def joined(parts: Sequence[Part]) -> str | list[Part]:
    """Text alone is one string, which every chat template takes."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return list(parts)


def _image(fields: Fields, where: str) -> Part:
    where = f"{where}.source"
    source = object_at(fields.get("source"), where)
    match type_at(source, where):
        case "base64":
            kind = source.get("media_type")
            if kind not in IMAGE_TYPES:
                raise mistake(f"{where}.media_type", f"must be one of {', '.join(IMAGE_TYPES)}.")
            url = f"data:{kind};base64,{_base64(source.get('data'), f'{where}.data')}"
        case "url":
            url = name_at(source.get("url"), f"{where}.url")
            if not url.startswith(("https://", "http://")):
                raise mistake(f"{where}.url", "must begin with https:// or http://.")
        case kind:
            raise mistake(where, f'images of type "{kind}" are not available: send "base64" or "url".')
    return {"type": "image_url", "image_url": {"url": url}}


def _base64(value: Any, where: str) -> str:
    """Without the line breaks that some encoders write."""
    data = "".join(name_at(value, where).split())
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError as exc:
        raise mistake(where, f"is not valid base64: {exc}.") from exc
    return data


def _document(fields: Fields, where: str) -> list[Part]:
    _refuse_citations(fields, where)
    place = f"{where}.source"
    source = object_at(fields.get("source"), place)
    match type_at(source, place):
        case "text":
            content = [text_part(text_at(source.get("data"), f"{place}.data"))]
        case "content":
            content = parts_at(source.get("content"), f"{place}.content")
        case "file":
            raise mistake(place, "files are not kept here: send the text of the document.")
        case _:
            raise mistake(place, 'only documents of type "text" and "content" can be read: send the text of a PDF.')
    title = text_at(fields.get("title") or "", f"{where}.title")
    context = text_at(fields.get("context") or "", f"{where}.context")
    return _tagged("document", {"title": title, "context": context}, content)


def _search_result(fields: Fields, where: str) -> list[Part]:
    _refuse_citations(fields, where)
    names = {name: text_at(fields.get(name) or "", f"{where}.{name}") for name in ("title", "source")}
    return _tagged("search_result", names, parts_at(fields.get("content"), f"{where}.content"))


def _tagged(tag: str, attributes: dict[str, str], content: list[Part]) -> list[Part]:
    named = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items() if value)
    return [text_part(f"<{tag}{named}>"), *content, text_part(f"</{tag}>")]


def _refuse_citations(fields: Fields, where: str) -> None:
    citations = object_at(fields.get("citations") or {}, f"{where}.citations")
    if flag_at(citations.get("enabled"), f"{where}.citations.enabled"):
        raise mistake(f"{where}.citations", "no model here gives citations: leave them out.")
