"""llama-server's answers in Ollama's words: lines of JSON while it generates, or one object at the end."""

from __future__ import annotations

import datetime
import json
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from router.api.prompt import CHAT
from router.errors import RouterError, UpstreamFailed
from router.proxy.client_response import NDJSON
from router.proxy.error_response import read_upstream_error
from router.proxy.protocols import PostToChild
from router.proxy.rewrite import encode_json
from router.units import limit_size
from router.wire.child_json import blame_child, parse_json, printable
from router.wire.response import Response as Answer

JSON = b"application/json"
EVENT = 8 << 20  # bytes of one event of a child
ANSWER = 64 << 20  # bytes of events that are told as one answer
VECTORS = 128 << 20  # bytes of an answer with embeddings
_COUNTS = re.compile(r"\((\d{1,9}) tokens\)\D+(\d{1,9})")  # of an input, and what it may have


class Clock:
    """Times one request, in seconds; `loaded` is called when its model serves."""

    def __init__(self) -> None:
        self._begin = self._loaded = time.perf_counter()

    def loaded(self) -> None:
        self._loaded = time.perf_counter()

    def durations(self) -> dict[str, int]:
        """Nanoseconds."""
        total, load = time.perf_counter() - self._begin, self._loaded - self._begin
        return {"total_duration": int(total * 1e9), "load_duration": int(load * 1e9)}


class Part(NamedTuple):
    """What one chunk of a child's stream says; `calls` are pieces of tool calls, `reason` why it ended."""

    content: str
    thinking: str = ""
    logprobs: list[dict[str, Any]] | None = None
    calls: list[dict[str, Any]] | None = None
    reason: str | None = None
    timings: Mapping[str, float] | None = None


# How an endpoint tells content, thinking and tool calls.
Tell = Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]


def as_message(content: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    more = {"thinking": thinking, "tool_calls": calls}
    return {"message": {"role": "assistant", "content": content, **{name: each for name, each in more.items() if each}}}


def as_response(content: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    return {"response": content, **({"thinking": thinking} if thinking else {})}


def head(model: str) -> dict[str, Any]:
    return {"model": model, "created_at": now()}


def now() -> str:
    return rfc3339(datetime.datetime.now(datetime.UTC))


def rfc3339(when: datetime.datetime) -> str:
    return when.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


def line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


class Notice:
    """Says one thing once its model serves; the child is asked nothing."""

    media_type = JSON

    def __init__(self, told: Callable[[], Mapping[str, Any]]) -> None:
        self._told = told

    async def __call__(self, ask: PostToChild) -> AsyncGenerator[bytes]:
        yield line(self._told())


@dataclass
class Generation:
    """`target` and `body` are what the child is asked. `model` is as the client named it, `alternatives` how many other
    tokens it wants to see beside each."""

    model: str
    target: bytes
    body: bytes
    tell: Tell
    clock: Clock
    stream: bool = True
    alternatives: int = 0
    _content: list[str] = field(default_factory=list)
    _thinking: list[str] = field(default_factory=list)
    _logprobs: list[dict[str, Any]] = field(default_factory=list)
    _calls: dict[int, dict[str, str]] = field(default_factory=dict)
    _reason: str = ""
    _timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def media_type(self) -> bytes:
        return NDJSON if self.stream else JSON

    async def __call__(self, ask: PostToChild) -> AsyncGenerator[bytes]:
        read = _of_chat if self.target == CHAT else _of_completion
        answer = await ask(self.target, self.body)
        try:
            if answer.status != 200:
                raise await read_upstream_error(answer)
            size = 0
            async for chunk, length in _chunks(answer):
                with blame_child():
                    part = read(chunk)
                    told = self._take(part)
                size += length if part.calls or not self.stream else 0
                if size > ANSWER:
                    raise UpstreamFailed(f"The model's answer has more than {limit_size(ANSWER)}: set num_predict.")
                if told:
                    yield told
        finally:
            answer.close()
        with blame_child():
            lines = self._end()
        for last in lines:
            yield last

    def _take(self, part: Part) -> bytes | None:
        """Remember what is told at the end; give the line of what can be told now."""
        for piece in part.calls or ():
            self._add_call(piece)
        self._reason = part.reason or self._reason
        self._timings = part.timings or self._timings
        logprobs = [_logprob(entry, self.alternatives) for entry in part.logprobs or ()]
        if not self.stream:
            self._content.append(part.content)
            self._thinking.append(part.thinking)
            self._logprobs += logprobs
            return None
        if not (part.content or part.thinking or logprobs):
            return None
        told = {**head(self.model), **self.tell(part.content, part.thinking, []), "done": False}
        return line({**told, "logprobs": logprobs} if logprobs else told)

    def _add_call(self, piece: dict[str, Any]) -> None:
        call = self._calls.setdefault(int(piece.get("index", 0)), {"id": "", "name": "", "arguments": ""})
        function = piece.get("function") or {}
        call["id"] = _text(piece.get("id")) or call["id"]
        call["name"] = _text(function.get("name")) or call["name"]
        call["arguments"] += _text(function.get("arguments"))

    def _end(self) -> list[bytes]:
        if not self._reason:
            raise UpstreamFailed("The model's answer ended before it was complete.")
        calls = [call for index, raw in sorted(self._calls.items()) if (call := _call(index, raw))]
        lines = []
        if calls and self.stream:
            lines.append(line({**head(self.model), **self.tell("", "", calls), "done": False}))
            calls = []
        whole = self.tell("".join(self._content), "".join(self._thinking), calls)
        logprobs = {"logprobs": self._logprobs} if self._logprobs else {}
        figures = {**self.clock.durations(), **_figures(self._timings)}
        reason = "length" if self._reason in ("length", "limit") else "stop"
        return [
            *lines,
            line({**head(self.model), **whole, **logprobs, "done": True, "done_reason": reason, **figures}),
        ]


def _of_chat(chunk: Mapping[str, Any]) -> Part:
    timings = chunk.get("timings")
    if not chunk.get("choices"):
        return Part("", timings=timings)
    choice = chunk["choices"][0]
    delta = choice.get("delta") or {}
    return Part(
        _text(delta.get("content")),
        _text(delta.get("reasoning_content")),
        (choice.get("logprobs") or {}).get("content"),
        delta.get("tool_calls"),
        _text(choice.get("finish_reason")),
        timings,
    )


def _of_completion(chunk: Mapping[str, Any]) -> Part:
    reason = (chunk.get("stop_type") or "stop") if chunk.get("stop") else None
    logprobs = chunk.get("completion_probabilities")
    return Part(_text(chunk.get("content")), "", logprobs, None, _text(reason), chunk.get("timings"))


def _text(value: Any) -> str:
    """Raises TypeError for what is something else."""
    if not isinstance(value, str | None):
        raise TypeError(f"a {type(value).__name__} where text belongs")
    return value or ""


async def _chunks(answer: Answer) -> AsyncIterator[tuple[dict[str, Any], int]]:
    """The objects of a stream of events, and their bytes. Raises what the child says went wrong."""
    held = b""
    while not answer.is_at_end:
        *lines, held = (held + await answer.read()).split(b"\n")
        if len(held) > EVENT:
            raise UpstreamFailed(f"The model's server sent an event of more than {limit_size(EVENT)}.")
        for each in lines:
            if each.startswith(b"data: {"):
                with blame_child():
                    chunk = parse_json(each[6:])
                if "error" in chunk:
                    raise _told(chunk["error"])
                yield chunk, len(each)


def _told(error: Any) -> RouterError:
    fields = error if isinstance(error, dict) else {"message": error}
    failure = UpstreamFailed(printable(fields.get("message")))
    failure.status = code if isinstance(code := fields.get("code"), int) and 400 <= code < 600 else failure.status
    return failure


def _call(index: int, raw: Mapping[str, str]) -> dict[str, Any] | None:
    """None for one that was cut off, by the limit of tokens."""
    try:
        arguments = parse_json(raw["arguments"].encode(errors="replace") or b"{}")
    except ValueError:
        return None
    if not isinstance(arguments, dict):
        return None
    return {"id": raw["id"], "function": {"index": index, "name": raw["name"], "arguments": arguments}}


def _logprob(entry: Mapping[str, Any], alternatives: int) -> dict[str, Any]:
    told = {name: entry[name] for name in ("token", "logprob", "bytes") if name in entry}
    others = (entry.get("top_logprobs") or [])[:alternatives]
    return {**told, "top_logprobs": [_logprob(other, 0) for other in others]} if others else told


def _figures(timings: Mapping[str, Any]) -> dict[str, int]:
    def told(name: str) -> float:
        return _number(timings.get(name))

    return {
        "prompt_eval_count": int(told("cache_n") + told("prompt_n")),
        "prompt_eval_duration": int(told("prompt_ms") * 1e6),
        "eval_count": int(told("predicted_n")),
        "eval_duration": int(told("predicted_ms") * 1e6),
    }


def _number(value: Any) -> float:
    """0 for what is none, or cannot be: these are figures that nothing hangs on."""
    return value if isinstance(value, int | float) and 0 <= value < 1e15 else 0


@dataclass
class Embedding:
    """`told` makes the answer of vectors and the count of their tokens. With `truncate` inputs that are too long are
    cut, to `dimensions` the vectors."""

    inputs: list[str]
    told: Callable[[list[list[float]], int], Mapping[str, Any]]
    truncate: bool = True
    dimensions: int = 0
    media_type = JSON

    async def __call__(self, ask: PostToChild) -> AsyncGenerator[bytes]:
        try:
            found = await _post(ask, b"/v1/embeddings", {"input": self.inputs})
        except UpstreamFailed as exc:
            limit = _COUNTS.search(exc.message)
            if limit is None or not self.truncate:
                raise
            cut = [await self._cut(ask, each, max(1, int(limit[2]) - 1)) for each in self.inputs]
            found = await _post(ask, b"/v1/embeddings", {"input": cut})
        with blame_child():
            items = sorted(found["data"], key=lambda item: item["index"])
            vectors = [self._shaped(item["embedding"]) for item in items]
            told = line(self.told(vectors, int(_number((found.get("usage") or {}).get("prompt_tokens")))))
        yield told

    async def _cut(self, ask: PostToChild, each: str, limit: int) -> list[int]:
        """Its first tokens."""
        found = await _post(ask, b"/tokenize", {"content": each, "add_special": True})
        with blame_child():
            tokens: list[int] = found["tokens"][:limit]
            sum(tokens)  # of numbers alone there is one
        return tokens

    def _shaped(self, vector: list[float | None]) -> list[float]:
        """JSON has no infinity: the engine says null where a model gave one."""
        whole = [number or 0.0 for number in vector]
        sum(whole)  # of numbers alone there is one
        if not 0 < self.dimensions < len(whole):
            return whole
        short = whole[: self.dimensions]
        norm = math.hypot(*short) or 1.0
        return [number / norm for number in short]


async def _post(ask: PostToChild, target: bytes, fields: dict[str, Any]) -> Any:
    answer = await ask(target, encode_json(fields))
    try:
        if answer.status != 200:
            raise await read_upstream_error(answer)
        data = await answer.read_all(VECTORS)
        with blame_child():
            return parse_json(data, limit_depth=False)
    finally:
        answer.close()
