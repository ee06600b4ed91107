"""llama-server's answers in Ollama's words: from what a real one was seen to send, over real connections."""

from __future__ import annotations

import json
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router.api.ollama import reply
from router.api.ollama.embedding import Embedding
from router.api.ollama.generation import Generation
from router.api.ollama.prompt import CHAT, RAW
from router.api.ollama.reply import RequestClock
from router.errors import RouterError, UpstreamFailed
from router.proxy.protocols import PostToChild, Translation
from router.wire.request_head import RequestHead
from router.wire.response import Response
from router.wire.upstream import Upstream
from tests.sockets import Server, take

TIMINGS = {"cache_n": 2, "prompt_n": 3, "prompt_ms": 1.5, "predicted_n": 4, "predicted_ms": 0.25}
Answers = Callable[[bytes, Any], tuple[int, bytes]]  # of a target and fields: status, body


def events(*chunks: object) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b": ping\n\ndata: [DONE]\n\n"


def delta(reason: str | None = None, /, **delta: Any) -> dict[str, Any]:
    choice = {"finish_reason": reason, "index": 0, "delta": delta}
    return {"choices": [choice], **({"timings": TIMINGS} if reason else {})}


async def told(tmp_path: Path, translation: Translation, answers: Answers, *, step: int = 7) -> list[dict[str, Any]]:
    """What the client gets of a child that sends `step` bytes at a time."""

    async def child(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            head, body = await take(reader)
            status, answer = answers(head.split()[1], json.loads(body))
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(answer)))
            for start in range(0, len(answer), step):
                writer.write(answer[start : start + step])
                await writer.drain()

    upstream = Upstream()
    async with Server(tmp_path / "child.sock").running(child) as server:
        ask = asks(upstream, server)
        data = b"".join([data async for data in translation(ask)])
        upstream.close()
    return [json.loads(line) for line in data.splitlines()]


def asks(upstream: Upstream, server: Server) -> PostToChild:
    async def ask(target: bytes, body: bytes) -> Response:
        return await upstream.open(server.address, "key", RequestHead("POST", target, []), body)

    return ask


def generation(target: bytes = CHAT, *, stream: bool = True, top_logprobs: int = 0) -> Generation:
    fields = reply.chat_fields if target == CHAT else reply.generate_fields
    return Generation("m", target, b"{}", fields, RequestClock(), stream, top_logprobs)


def steady(body: bytes, status: int = 200) -> Answers:
    return lambda target, fields: (status, body)


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
async def test_a_stream_of_thoughts_words_and_calls(tmp_path: Path, step: int) -> None:
    lines = await told(tmp_path, generation(), steady(WEATHER), step=step)
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


async def test_all_at_once(tmp_path: Path) -> None:
    (whole,) = await told(tmp_path, generation(stream=False), steady(WEATHER))
    message = {"role": "assistant", "content": "I look — ☂", "thinking": "Let me see.", "tool_calls": CALLS}
    assert (whole["message"], whole["done"], whole["done_reason"]) == (message, True, "stop")


async def test_a_call_that_was_cut_off_is_none(tmp_path: Path) -> None:
    def call(arguments: str) -> dict[str, Any]:
        return delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": arguments}}])

    for arguments in ('{"city": "B', "[]"):
        lines = await told(tmp_path, generation(), steady(events(call(arguments), delta("length"))))
        assert [line["done_reason"] for line in lines] == ["length"]


@pytest.mark.parametrize(("stop", "reason"), [("limit", "length"), ("eos", "stop"), ("word", "stop")])
async def test_a_raw_stream(tmp_path: Path, stop: str, reason: str) -> None:
    probabilities = [{"id": 5, "token": "x", "bytes": [120], "logprob": -0.5, "top_logprobs": [{"token": "y"}] * 3}]
    chunks = events(
        {"content": "x", "stop": False, "completion_probabilities": probabilities},
        {"content": "", "stop": True, "stop_type": stop, "timings": TIMINGS},
    )
    first, last = await told(tmp_path, generation(RAW, top_logprobs=2), steady(chunks))
    assert (first["response"], first["done"], last["response"], last["done_reason"]) == ("x", False, "", reason)
    assert first["logprobs"] == [{"token": "x", "bytes": [120], "logprob": -0.5, "top_logprobs": [{"token": "y"}] * 2}]
    (whole,) = await told(tmp_path, generation(RAW, stream=False), steady(chunks))
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
async def test_what_the_child_complains_of(tmp_path: Path, body: bytes, status: int, told_status: int) -> None:
    with pytest.raises(RouterError, match="no such thing") as caught:
        await told(tmp_path, generation(), steady(body, status))
    assert caught.value.status == told_status


async def test_an_answer_that_just_ends_is_none(tmp_path: Path) -> None:  # B-C4
    for stream in (True, False):
        with pytest.raises(UpstreamFailed, match="before it was complete"):
            await told(tmp_path, generation(stream=stream), steady(events(delta(content="I"))))


def embedding(*inputs: str, truncate: bool = True, dimensions: int = 0) -> Embedding:
    return Embedding(list(inputs), lambda vectors, n: {"v": vectors, "n": n}, truncate, dimensions)


def embeds(vector: list[float | None]) -> bytes:
    data = [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": vector}]
    return json.dumps({"data": data, "usage": {"prompt_tokens": 9}}).encode()


async def test_vectors_in_the_order_of_their_texts(tmp_path: Path) -> None:
    assert await told(tmp_path, embedding("a", "b"), steady(embeds([0.5, None]))) == [
        {"v": [[0.5, 0.0], [1.0]], "n": 9}
    ]


async def test_fewer_dimensions_are_normalized_again(tmp_path: Path) -> None:
    (answer,) = await told(tmp_path, embedding("a", dimensions=2), steady(embeds([0.3, 0.4, 0.5])))
    assert answer["v"][0] == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    "complaint",
    [
        "input (12 tokens) is too large to process. increase the physical batch size (current batch size: 5)",
        "request (12 tokens) exceeds the available context size (5 tokens), try increasing it",
    ],
)
async def test_texts_too_long_are_cut(tmp_path: Path, complaint: str) -> None:
    asked: list[Any] = []

    def answers(target: bytes, fields: Any) -> tuple[int, bytes]:
        asked.append(fields)
        if target == b"/tokenize":
            return 200, json.dumps({"tokens": list(range(len(fields["content"])))}).encode()
        if isinstance(fields["input"][0], str):
            return 500, json.dumps({"error": {"message": complaint}}).encode()
        return 200, embeds([1.0])

    await told(tmp_path, embedding("a" * 12, "bb"), answers)
    assert asked[-1]["input"] == [[0, 1, 2, 3], [0, 1]]
    with pytest.raises(RouterError, match="12 tokens"):
        await told(tmp_path, embedding("a" * 12, truncate=False), answers)
