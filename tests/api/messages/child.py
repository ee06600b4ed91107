"""What a child streams, as a script; and the message that Anthropic's own types and its client make of our events."""

from __future__ import annotations

import json
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}
PROGRESS = {"choices": [{"delta": {}}], "prompt_progress": {"total": 9, "cache": 2, "processed": 2, "time_ms": 0}}


def chunk(reason: str | None = None, /, **delta: Any) -> dict[str, Any]:
    choice = {"finish_reason": reason, "index": 0, "delta": delta}
    return {"choices": [choice], "created": 1, "object": "chat.completion.chunk"}


def call(index: int, arguments: str, name: str = "", id: str = "") -> dict[str, Any]:
    first = {"id": id, "type": "function"} if name else {}
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return chunk(tool_calls=[{"index": index, **first, "function": function}])


def script(*chunks: object, usage: Any = USAGE) -> bytes:
    last = [{"choices": [], "usage": usage}] if usage else []
    lines = [
        each if isinstance(each, bytes) else json.dumps(each, ensure_ascii=False).encode() for each in (*chunks, *last)
    ]
    return b"".join(b"data: %b\n\n" % line for line in lines) + b": ping\n\ndata: [DONE]\n\n"


def _as_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """The events, each checked by its type; `ping` is one that the client leaves out."""
    *parts, end = stream.decode().split("\n\n")
    assert end == ""
    events = []
    for part in parts:
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] != "ping":
            EVENT.validate_python(event)
        events.append(event)
    return events


def message_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client puts together. Checks that the blocks are opened and closed in their order."""
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    open_block = None
    for event in events:
        match event:
            case {"type": "message_start"}:
                assert not message
                message = event["message"]
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert open_block is None
                assert index == len(message["content"])
                open_block = index
                message["content"].append(dict(block))
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert index == open_block
                block = message["content"][index]
                match delta:
                    case {"type": "text_delta", "text": text}:
                        block["text"] += text
                    case {"type": "thinking_delta", "thinking": text}:
                        block["thinking"] += text
                    case {"type": "signature_delta", "signature": text}:
                        block["signature"] += text
                    case {"type": "input_json_delta", "partial_json": text}:
                        inputs[index] = inputs.get(index, "") + text
            case {"type": "content_block_stop", "index": index}:
                assert index == open_block
                open_block = None
                if index in inputs:
                    message["content"][index]["input"] = json.loads(inputs[index])
            case {"type": "message_delta"}:
                assert open_block is None
                message |= event["delta"]
                message["usage"] |= event["usage"]
    assert events[-1]["type"] == "message_stop"
    MESSAGE.validate_python(message)
    return message
