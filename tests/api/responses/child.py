"""A child over a real connection that streams a script, and what the Responses API makes of it, checked by OpenAI's own
types: every event and every response."""

from __future__ import annotations

import json
from asyncio import StreamReader, StreamWriter
from pathlib import Path
from typing import Any

from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from router.api.responses.answer import Answer
from router.api.responses.request import translate
from router.errors import RouterError
from router.wire.upstream import Upstream
from tests.api.ollama.child import posts_to
from tests.sockets import Server, take

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
RESPONSE: TypeAdapter[Response] = TypeAdapter(Response)
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}


def chunk(reason: str | None = None, /, logprobs: Any = None, **delta: Any) -> dict[str, Any]:
    more = {"logprobs": {"content": logprobs}} if logprobs else {}
    return {
        "object": "chat.completion.chunk",
        "choices": [{"finish_reason": reason, "index": 0, "delta": delta, **more}],
    }


def call(index: int, arguments: str, name: str = "", id: str = "") -> dict[str, Any]:
    first = {"id": id, "type": "function"} if name else {}
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return chunk(tool_calls=[{"index": index, **first, "function": function}])


def script(*chunks: object, usage: Any = USAGE) -> bytes:
    last = [{"choices": [], "usage": usage}] if usage else []
    data = [
        b"data: %b\n\n" % (each if isinstance(each, bytes) else json.dumps(each).encode()) for each in (*chunks, *last)
    ]
    return b"".join(data) + b": ping\n\ndata: [DONE]\n\n"


def answer_to(**fields: Any) -> Answer:
    request = translate({"input": "Hi", **fields}, "m", [], lambda id: None)
    return Answer(request, b"{}")


async def sent(tmp_path: Path, answer: Answer, body: bytes, status: int = 200, step: int = 100_000) -> bytes:
    """What the client gets; an error is said as the gateway says it once the stream has begun."""

    async def child(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)))
        for start in range(0, len(body), step):
            writer.write(body[start : start + step])
            await writer.drain()

    upstream, told = Upstream(), b""
    async with Server(tmp_path / "child.sock").running(child) as server:
        try:
            async for data in answer(posts_to(upstream, server)):
                told += data
        except RouterError as exc:
            if not told:
                raise
            told += answer.stream_error(exc, "")
        finally:
            upstream.close()
    return told


def checked(told: bytes) -> list[dict[str, Any]]:
    """The events, each of its type, and all of them as OpenAI's client puts them together."""
    events = []
    state = ResponseStreamState(input_tools=[], text_format=omit)
    for number, block in enumerate(told.decode().removesuffix("\n\n").split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        state.handle_event(EVENT.validate_python(event))
        events.append(event)
    return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def final(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The response of the last event that has one; its items are those that the events told of."""
    response: dict[str, Any] = [event["response"] for event in events if "response" in event][-1]
    RESPONSE.validate_python(response)
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["item"] for event in done] == response["output"]
    assert [event["output_index"] for event in done] == list(range(len(done)))
    return response
