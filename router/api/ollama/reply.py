"""The common parts of Ollama's answers: times, durations, lines of JSON, and where content, thinking and calls go."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from router.proxy.client_response import NDJSON
from router.proxy.protocols import PostToChild

JSON = b"application/json"

# Content, thinking and tool calls as the fields of an endpoint's answer: `chat_fields` or `generate_fields`.
AnswerFields = Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]


def chat_fields(content: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    more = {"thinking": thinking, "tool_calls": calls}
    return {"message": {"role": "assistant", "content": content, **{name: each for name, each in more.items() if each}}}


def generate_fields(content: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    return {"response": content, **({"thinking": thinking} if thinking else {})}


def head(model: str) -> dict[str, Any]:
    """The first fields of each line of a generation."""
    return {"model": model, "created_at": rfc3339(datetime.datetime.now(datetime.UTC))}


class TextLines:
    """Lines with a piece of text and nothing else. All of them are alike, so only the texts are encoded for each::

    lines = TextLines("qwen3", chat_fields)
    lines.lines(["Hello", " there"], are_thoughts=False)
    """

    def __init__(self, model: str, answer_fields: AnswerFields) -> None:
        self._begin = json.dumps({"model": model}, separators=(",", ":")).encode()[:-1] + b',"created_at":"'
        self._text = _around(answer_fields(_MARK, "", []))
        self._thoughts = _around(answer_fields("", _MARK, []))

    def __repr__(self) -> str:
        return f"<TextLines {self._begin[:80]!r}>"

    def lines(self, pieces: Sequence[str], *, are_thoughts: bool) -> bytes:
        """One line for each piece that is not empty."""
        texts = [_encode(piece) for piece in pieces if piece]
        if not texts:
            return b""
        before, after = self._thoughts if are_thoughts else self._text
        now = datetime.datetime.now(datetime.UTC).isoformat()[: -len("+00:00")]
        begin = self._begin + now.encode() + before
        return begin + (after + begin).join(texts) + after


_MARK = "\0"
_encode = msgspec.json.Encoder().encode


def _around(fields: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """What comes before and after the text, whose place is marked."""
    told = json.dumps({**fields, "done": False}, separators=(",", ":"))
    before, _, after = told.partition(json.dumps(_MARK))
    return b'Z",' + before[1:].encode(), after.encode() + b"\n"


def rfc3339(when: datetime.datetime) -> str:
    return when.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


def line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def json_response(value: Any) -> Response:
    """Plain ASCII: an answer may repeat what a client sent, which need not be valid Unicode."""
    return Response(json.dumps(value), media_type="application/json")


def status_response(statuses: list[str], *, stream: bool) -> Response:
    """The answer of an operation that is already done, in the form of one that reports its progress."""
    if not stream:
        return json_response({"status": statuses[-1]})
    return Response(b"".join(line({"status": status}) for status in statuses), media_type=NDJSON.decode())


class RequestClock:
    """Times one request. Call `mark_loaded` when its model serves."""

    def __init__(self) -> None:
        self._began = self._loaded = time.perf_counter()

    def __repr__(self) -> str:
        return f"<RequestClock load {self._loaded - self._began:.3f} s>"

    def mark_loaded(self) -> None:
        self._loaded = time.perf_counter()

    def durations(self) -> dict[str, int]:
        """The time since the request began, and how much of it the load took. In nanoseconds."""
        total, load = time.perf_counter() - self._began, self._loaded - self._began
        return {"total_duration": int(total * 1e9), "load_duration": int(load * 1e9)}


class LocalAnswer:
    """A translation that sends nothing to the child: once the model serves, `make` gives the whole answer."""

    media_type = JSON

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        self._make = make

    async def __call__(self, post: PostToChild) -> AsyncGenerator[bytes]:
        yield line(self._make())
