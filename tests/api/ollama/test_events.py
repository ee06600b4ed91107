"""The streams of chats and of completions as deltas, whatever they hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.api.ollama import events
from router.api.ollama.events import ChatReader, CompletionReader, Delta, shown_logprobs
from router.errors import RouterError, UpstreamFailed
from tests.api.ollama.child import delta


def said(value: object) -> bytes:
    return b"data: %b\n\n" % (value if isinstance(value, bytes) else json.dumps(value).encode())


def piece(text: str, **more: Any) -> bytes:
    return said({"index": 0, "content": text, "tokens": [5], "stop": False, "tokens_predicted": len(text), **more})


def test_pieces_of_a_completion_that_come_together_are_one_delta() -> None:
    reader = CompletionReader()
    first, second = piece(" three"), said({"content": "", "stop": True, "stop_type": "limit", "timings": {"x": 1}})
    assert reader.read(piece("one"), piece(" two"), first[:20]) == [Delta(("one", " two"))]
    assert reader.read(first[20:], second) == [Delta((" three",)), Delta((), (), None, None, "limit", {"x": 1})]
    assert reader.read(piece("")) == [Delta()]
    assert reader.read() == []


def test_pieces_of_a_chat_that_come_together_are_one_delta() -> None:
    reader = ChatReader()
    assert reader.read(said(delta(content="one"))) == [Delta(("one",), timings={})]
    assert reader.read(said(delta(content=" two")), said(delta(content="")), said(delta(content=" x"))) == [
        Delta([" two", "", " x"])
    ]
    thought, last = reader.read(said(delta(reasoning_content="hm")), said(delta("stop")))
    assert (thought.thinking, last.reason) == (("hm",), "stop")


@pytest.mark.parametrize(
    "value",
    [
        b"{nonsense",
        b'{"content": [1]}',
        b'{"content": "x", "stop": "x"}',
        b'{"completion_probabilities": [1]}',
        b'{"stop_type": {}, "stop": true}',
        b'{"error": 5}',
        b'{"error": {"message": "no", "code": 400}}',
    ],
)
def test_events_of_a_wrong_shape_are_failures(value: bytes) -> None:  # B-T8
    with pytest.raises(RouterError):
        CompletionReader().read(said(value))


def test_what_one_parser_does_not_read_the_other_does() -> None:
    found = CompletionReader().read(said(b'{"content": "\\ud800a"}'), said(b'{"content": "\xffb", "timings": NaN}'))
    assert "".join(text for each in found for text in each.content) == "?a\ufffdb"


def test_an_event_without_an_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:  # B-T5
    monkeypatch.setattr(events, "MAX_EVENT_BYTES", 1000)
    for reader in (CompletionReader(), ChatReader()):
        assert reader.read(b"x" * 900) == []
        with pytest.raises(UpstreamFailed, match="more than"):
            reader.read(b"x" * 200)


def test_logprobs_have_their_fields_and_no_others() -> None:
    entry = {"token": "a", "logprob": -1, "bytes": [97], "id": 5, "top_logprobs": [{"token": "b", "x": 1}] * 3}
    assert shown_logprobs([entry], 2) == [
        {"token": "a", "logprob": -1, "bytes": [97], "top_logprobs": [{"token": "b"}] * 2}
    ]
    assert shown_logprobs([{"token": None, "logprob": "x", "bytes": None}], 0) == [
        {"token": "", "logprob": None, "bytes": None}
    ]
    for wrong in ({"token": [1]}, {"bytes": 5}, {"bytes": [[1]]}):
        with pytest.raises(TypeError):
            shown_logprobs([wrong], 0)
