"""Pictures, sound and files for a model that does not take them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.errors import InvalidRequest
from router.proxy.media import check, may_have_media


def chat(*types: str) -> list[Any]:
    parts: list[Any] = [{"type": "text", "text": "image_url"}, *({"type": each, each: {}} for each in types)]
    return [{"role": "user", "content": "hi"}, {"role": "user", "content": parts}]


@pytest.mark.parametrize(
    ("kind", "capability", "word"),
    [
        ("image_url", "vision", "images"),
        ("input_audio", "audio", "audio"),
        ("input_video", "vision", "videos"),
        ("file", None, "files"),
    ],
)
def test_what_a_model_does_not_take_is_an_error(kind: str, capability: str | None, word: str) -> None:  # B-C11
    messages = chat(kind)
    for spaces in ((", ", ": "), (",", ":")):
        assert may_have_media(json.dumps(messages[1]["content"], separators=spaces).encode(), ("completion",))
    with pytest.raises(InvalidRequest, match=f"'m' does not .*{word}") as caught:
        check(messages, ("completion",), "m")
    assert caught.value.param == "messages[1].content"
    if capability:
        check(messages, ("completion", capability), "m")


@pytest.mark.parametrize("messages", [chat(), None, "x", {}, [5, {"content": 5}, {"content": ["x", {"type": []}]}]])
def test_nothing_else_is_an_error(messages: Any) -> None:
    check(messages, (), "m")


@pytest.mark.parametrize(
    "content",
    [b'[{"file": 1, "name": "file"}]', b'"image_url"', b"null", b"5", b""],
)
def test_words_alone_are_no_media(content: bytes) -> None:
    assert not may_have_media(content, ())
