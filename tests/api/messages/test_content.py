"""Blocks that hold something to read."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.messages.content import joined, parts_at
from router.errors import InvalidRequest

PIXEL = "R0lGODlhAQABAAAAACwAAAAAAQABAAA="
GIF = {"type": "base64", "media_type": "image/gif", "data": PIXEL}


def image(source: Any = GIF) -> dict[str, Any]:
    return {"type": "image", "source": source}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def url_of(part: dict[str, Any]) -> str:
    return str(part["image_url"]["url"])


def test_text_alone_is_one_string() -> None:
    assert joined(parts_at("a", "x")) == "a"
    assert joined(parts_at("", "x")) == ""
    blocks = [{**text("a"), "cache_control": {"type": "ephemeral"}}, text(""), text("b")]
    assert joined(parts_at(blocks, "x")) == "a\nb"


def test_images() -> None:
    wrapped = {**GIF, "data": PIXEL[:8] + "\r\n " + PIXEL[8:]}
    parts = parts_at([text("look"), image(), image(wrapped), image({"type": "url", "url": "https://a/b.png"})], "x")
    assert [part["type"] for part in parts] == ["text", "image_url", "image_url", "image_url"]
    assert [url_of(part) for part in parts[1:]] == [*[f"data:image/gif;base64,{PIXEL}"] * 2, "https://a/b.png"]
    assert joined(parts) == parts


def test_documents_become_text_with_their_title() -> None:  # B-C9
    source = {"type": "text", "media_type": "text/plain", "data": "Once."}
    document = {"type": "document", "source": source, "title": 'A "tale"', "context": "old", "citations": None}
    assert joined(parts_at([document], "x")) == '<document title=\'A "tale"\' context="old">\nOnce.\n</document>'
    mixed = {"type": "document", "source": {"type": "content", "content": [text("See"), image()]}}
    assert [part["type"] for part in parts_at([mixed], "x")] == ["text", "text", "image_url", "text"]
    found = {"type": "search_result", "title": "T", "source": "https://a", "content": [text("It is.")]}
    assert joined(parts_at([found], "x")) == '<search_result title="T" source="https://a">\nIt is.\n</search_result>'


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (5, "x.0: must be an object, not a number"),
        ({}, "x.0.type: must be a string, not null"),
        ({"type": "video"}, '"video" cannot be used here'),
        ({"type": "text", "text": None}, "x.0.text: must be a string"),
        (image({"type": "file", "file_id": "f"}), 'images of type "file"'),
        (image({**GIF, "media_type": "image/tiff"}), "x.0.source.media_type: must be one of image/jpeg"),
        (image({**GIF, "data": "a"}), "x.0.source.data: is not valid base64"),
        (image({**GIF, "data": "aa\u00e4="}), "x.0.source.data: is not valid base64"),
        (image({"type": "url", "url": "file:///etc/passwd"}), "x.0.source.url: must begin with https://"),
        (image({"type": "url", "url": "data:image/gif;base64,aa"}), "x.0.source.url: must begin with https://"),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}}, "PDF"),
        ({"type": "document", "source": {"type": "url", "url": "https://a/b.pdf"}}, "PDF"),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, "files are not kept here"),
        (
            {"type": "document", "source": {"type": "text", "data": "a"}, "citations": {"enabled": True}},
            "x.0.citations: no model here gives citations",
        ),
    ],
)
def test_what_cannot_be_read_is_named(block: Any, said: str) -> None:  # B-C9
    with pytest.raises(InvalidRequest) as caught:
        parts_at([block], "x")
    assert said in caught.value.message
