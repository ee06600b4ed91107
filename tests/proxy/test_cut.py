"""A stream whose time is up ends as one that has reached its limit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.proxy.cut import cut_of

FIRST = {"choices": [{"index": 0, "delta": {"role": "assistant"}}], "id": "chatcmpl-1", "created": 7, "model": "m"}


def last_events(path: str, beginning: bytes) -> list[Any]:
    cut = cut_of(path)
    assert cut is not None
    *events, nothing = cut(beginning).split(b"\n\n")
    assert nothing == b""
    return [event if event == b"data: [DONE]" else json.loads(event.removeprefix(b"data: ")) for event in events]


@pytest.mark.parametrize(
    ("path", "kind", "choice"),
    [
        ("/chat/completions", "chat.completion.chunk", {"delta": {}}),
        ("/v1/completions", "text_completion", {"text": "", "logprobs": None}),
    ],
)
def test_the_last_events_are_of_the_stream_that_they_end(path: str, kind: str, choice: Any) -> None:  # B-L14
    beginning = b": loading\n\ndata: " + json.dumps({**FIRST, "object": kind}).encode() + b"\n\ndata: {"
    last, done = last_events(path, beginning)
    assert done == b"data: [DONE]"
    assert last["choices"] == [{"index": 0, "finish_reason": "length", **choice}]
    assert (last["id"], last["created"], last["model"], last["object"]) == ("chatcmpl-1", 7, "m", kind)


def test_the_engines_own_stream_ends_in_its_own_words() -> None:
    for path in ("/completion", "/completions", "/infill"):
        (last,) = last_events(path, b"")
        assert (last["stop"], last["stop_type"]) == (True, "limit")


@pytest.mark.parametrize("beginning", [b"", b": comment\n\n", b"data: {x}\n\n", b"data: []\n\n", b"\xff"])
def test_an_odd_beginning_costs_only_its_fields(beginning: bytes) -> None:
    last, _ = last_events("/chat/completions", beginning)
    assert (last["object"], "id" in last) == ("chat.completion.chunk", False)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/embeddings", "/props", "/v1/completion"])
def test_other_paths_have_no_such_end(path: str) -> None:
    assert cut_of(path) is None
