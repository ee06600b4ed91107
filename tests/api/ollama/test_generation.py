"""llama-server's streams in Ollama's words: from what a real one was seen to send, over real connections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from router.api.ollama import reply
from router.api.ollama.generation import Generation
from router.api.ollama.prompt import CHAT, RAW
from router.api.ollama.reply import RequestClock
from router.errors import RouterError, UpstreamFailed
from tests.api.ollama.child import TIMINGS, answer_of, delta, events, steady


def generation(target: bytes = CHAT, *, stream: bool = True, top_logprobs: int = 0) -> Generation:
    fields = reply.chat_fields if target == CHAT else reply.generate_fields
    return Generation("m", target, b"{}", fields, RequestClock(), stream, top_logprobs)


WEATHER = events(
    delta(role="assistant", content=None),
    delta(reasoning_content="Let me"),
    delta(reasoning_content=" see."),
    delta(content="I"),
    delta(content=" look — ☂"),
    delta(tool_calls=[{"index": 0, "id": "a1", "type": "function", "function": {"name": "rain", "arguments": ""}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city": "B'}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": 'onn"}'}}]),
    delta(tool_calls=[{"index": 1, "id": "a2", "type": "function", "function": {"name": "now", "arguments": "{}"}}]),
    delta("tool_calls"),
)


CALLS = [
    {"id": "a1", "function": {"index": 0, "name": "rain", "arguments": {"city": "Bonn"}}},
    {"id": "a2", "function": {"index": 1, "name": "now", "arguments": {}}},
]


@pytest.mark.parametrize("step", [1, 7, 100_000])
async def test_a_stream_has_thoughts_words_and_then_calls(tmp_path: Path, step: int) -> None:
    lines = await answer_of(tmp_path, generation(), steady(WEATHER), step=step)
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "", "thinking": "Let me"},
        {"role": "assistant", "content": "", "thinking": " see."},
        {"role": "assistant", "content": "I"},
        {"role": "assistant", "content": " look — ☂"},
        {"role": "assistant", "content": "", "tool_calls": CALLS},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in lines] == [False] * 5 + [True]
    last = lines[-1]
    assert (last["model"], last["done_reason"]) == ("m", "stop")
    figures = {
        name: last[name] for name in ("prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration")
    }
    assert list(figures.values()) == [5, 1_500_000, 4, 250_000]
    assert last["total_duration"] >= last["load_duration"] >= 0


async def test_without_a_stream_the_answer_is_one_object(tmp_path: Path) -> None:
    (whole,) = await answer_of(tmp_path, generation(stream=False), steady(WEATHER))
    message = {"role": "assistant", "content": "I look — ☂", "thinking": "Let me see.", "tool_calls": CALLS}
    assert (whole["message"], whole["done"], whole["done_reason"]) == (message, True, "stop")


async def test_a_call_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    def call(arguments: str) -> dict[str, Any]:
        return delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": arguments}}])

    for arguments in ('{"city": "B', "[]"):
        lines = await answer_of(tmp_path, generation(), steady(events(call(arguments), delta("length"))))
        assert [line["done_reason"] for line in lines] == ["length"]


@pytest.mark.parametrize(("stop", "reason"), [("limit", "length"), ("eos", "stop"), ("word", "stop")])
async def test_a_raw_stream_has_its_reason_and_logprobs(tmp_path: Path, stop: str, reason: str) -> None:
    probabilities = [{"id": 5, "token": "x", "bytes": [120], "logprob": -0.5, "top_logprobs": [{"token": "y"}] * 3}]
    chunks = events(
        {"content": "x", "stop": False, "completion_probabilities": probabilities},
        {"content": "", "stop": True, "stop_type": stop, "timings": TIMINGS},
    )
    first, last = await answer_of(tmp_path, generation(RAW, top_logprobs=2), steady(chunks))
    assert (first["response"], first["done"], last["response"], last["done_reason"]) == ("x", False, "", reason)
    assert first["logprobs"] == [{"token": "x", "bytes": [120], "logprob": -0.5, "top_logprobs": [{"token": "y"}] * 2}]
    (whole,) = await answer_of(tmp_path, generation(RAW, stream=False), steady(chunks))
    assert (whole["response"], whole["logprobs"]) == ("x", [{"token": "x", "bytes": [120], "logprob": -0.5}])


@pytest.mark.parametrize(
    ("body", "status", "told_status"),
    [
        (b'{"error":{"code":400,"message":"no such thing"}}', 400, 400),
        (events({"error": {"code": 503, "message": "no such thing"}}), 200, 503),
        (events({"error": "no such thing"}), 200, 502),
        (b"no such thing", 500, 500),
    ],
)
async def test_the_childs_error_keeps_its_status_and_message(
    tmp_path: Path, body: bytes, status: int, told_status: int
) -> None:
    with pytest.raises(RouterError, match="no such thing") as caught:
        await answer_of(tmp_path, generation(), steady(body, status))
    assert caught.value.status == told_status


async def test_an_answer_without_an_end_is_a_failure(tmp_path: Path) -> None:  # B-C4
    for stream in (True, False):
        with pytest.raises(UpstreamFailed, match="before it was complete"):
            await answer_of(tmp_path, generation(stream=stream), steady(events(delta(content="I"))))
