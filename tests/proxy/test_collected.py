"""One answer of a stream: whole, cut, or broken. tests/whole/test_limits.py compares with the engine's own answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.errors import ContextExceeded, RouterError, UpstreamFailed
from router.proxy.collected import MAX_BYTES, ChatAnswer, Collected, NativeAnswer, TextAnswer, as_stream, kind_of
from tests.scripted import TOO_LONG

TOP = {"created": 7, "id": "chatcmpl-1", "model": "m", "object": "chat.completion.chunk"}
TIMINGS = {"cache_n": 3, "prompt_n": 2, "predicted_n": 4}


def events(*found: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in found)


def delta(reason: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {**TOP, "choices": [{"index": index, "finish_reason": reason, "delta": fields}], "timings": TIMINGS}


def call(arguments: str, index: int = 0, **first: Any) -> dict[str, Any]:
    name = {"name": first.pop("name")} if "name" in first else {}
    return delta(tool_calls=[{"index": index, **first, "function": {**name, "arguments": arguments}}])


CALLS = events(
    delta(role="assistant", content=None),
    delta(reasoning_content="Hm"),
    delta(reasoning_content="m."),
    call("", id="a", type="function", name="f"),
    call('{"x":'),
    call("1}"),
    call("{}", 1, id="b", type="function", name="g"),
)


def fed(answer: Collected, data: bytes, size: int = 1 << 20) -> Collected:
    for start in range(0, len(data), size):
        answer.feed(data[start : start + size])
    return answer


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_calls_and_thoughts_are_put_together(size: int) -> None:
    usage = {"completion_tokens": 9, "prompt_tokens": 5, "total_tokens": 14}
    end = events(delta("tool_calls"), {**TOP, "choices": [], "usage": usage}) + b"data: [DONE]\n\n"
    whole = json.loads(fed(ChatAnswer(), CALLS + end, size).whole())
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hmm.",
        "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": '{"x":1}'}, "id": "a"},
            {"type": "function", "function": {"name": "g", "arguments": "{}"}, "id": "b"},
        ],
    }
    assert (whole["object"], whole["id"], whole["usage"]) == ("chat.completion", "chatcmpl-1", usage)


def test_what_is_cut_says_so_and_has_its_counts() -> None:  # B-L14
    cut = fed(ChatAnswer(), CALLS[:-40]).cut()  # in the middle of an event
    assert cut is not None
    answer = json.loads(cut)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    text = fed(TextAnswer(), events({**TOP, "choices": [{"index": 0, "text": "a"}]})).cut()
    assert text is not None
    assert json.loads(text)["choices"] == [{"text": "a", "index": 0, "logprobs": None, "finish_reason": "length"}]
    native = fed(NativeAnswer(), events({"index": 0, "content": "a", "timings": TIMINGS}, {"index": 1, "content": "b"}))
    found = json.loads(native.cut() or b"")
    assert [(each["content"], each["stop_type"], each["stop"]) for each in found] == [
        ("a", "limit", True),
        ("b", "limit", True),
    ]
    assert (found[0]["tokens_predicted"], found[0]["tokens_evaluated"]) == (4, 5)


@pytest.mark.parametrize("kind", [ChatAnswer, TextAnswer, NativeAnswer])
def test_without_an_event_there_is_nothing_to_cut(kind: type[Collected]) -> None:
    answer = fed(kind(), b": comment\n\ndata: null\n\ndata: {")
    assert answer.cut() is None
    with pytest.raises(UpstreamFailed):
        answer.whole()


def test_one_of_two_answers_that_has_not_ended_is_not_whole() -> None:
    with pytest.raises(UpstreamFailed):
        fed(ChatAnswer(), events(delta("stop", content="a"), delta(index=1, content="b"))).whole()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TOO_LONG, ContextExceeded),
        ({"code": 500, "message": "broken"}, RouterError),
        ("broken", RouterError),
    ],
)
def test_an_error_among_the_events_is_raised(error: Any, kind: type[RouterError]) -> None:
    with pytest.raises(kind):
        fed(ChatAnswer(), events(delta(content="a"), {"error": error}))


@pytest.mark.parametrize(
    "odd",
    [{"choices": 5}, {"choices": [5]}, {"choices": [{"delta": 5}]}, {"choices": [{"delta": {"content": 5}}]}],
)
def test_what_makes_no_sense_is_the_childs_failure(odd: Any) -> None:
    with pytest.raises(UpstreamFailed):
        fed(ChatAnswer(), events(odd, delta("stop"))).whole()


def test_it_is_bounded() -> None:
    answer = ChatAnswer()
    answer.feed(b" " * MAX_BYTES)
    with pytest.raises(UpstreamFailed, match="max_tokens"):
        answer.feed(b" ")


def test_paths() -> None:
    assert kind_of("/v1/chat/completions") is kind_of("/chat/completions") is ChatAnswer
    assert kind_of("/v1/completions") is TextAnswer
    assert kind_of("/completions") is kind_of("/completion") is kind_of("/infill") is NativeAnswer
    assert kind_of("/v1/embeddings") is None


def test_the_request_asks_for_a_stream() -> None:
    for body, fields in (
        (b'{"stream": false, "a": 1}', {"stream": False}),
        (b'{"a":1}', {"a": 1}),
        (b"{}", {}),
        (b'{"response_fields":["content"],"a":1}', {"response_fields": ["content"]}),
    ):
        asked = json.loads(as_stream(body, fields))
        assert asked["stream"] is True
        assert asked["stream_options"] == {"include_usage": True}
        assert "response_fields" not in asked
        assert asked.get("a") == json.loads(body).get("a")
    assert as_stream(b'{"stream":"yes"}', {"stream": "yes"}) == b'{"stream":"yes"}'
