"""A generation in Ollama's words: lines of JSON while it goes on, or one object at its end.

The child always streams. With `stream` each piece becomes a line at once; without, it is collected. Tool calls
arrive in pieces and are always collected: Ollama's clients want them whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from router.api.chat_stream import CallPiece
from router.api.ollama.context import Fitting
from router.api.ollama.events import ChatReader, CompletionReader, Delta, DeltaReader, count_of, shown_logprobs
from router.api.ollama.prompt import CHAT
from router.api.ollama.reply import JSON, AnswerFields, RequestClock, TextLines, head, line
from router.errors import UpstreamFailed
from router.proxy.client_response import NDJSON
from router.proxy.error_response import read_upstream_error
from router.proxy.protocols import PostToChild
from router.units import limit_size
from router.wire.child_json import blame_child, parse_json
from router.wire.response import Response as Answer

MAX_ANSWER_BYTES = 64 << 20  # of the events that are collected into one answer


@dataclass
class Generation:
    """A translation for the gateway: sends `body` to the child's `target`, and yields the client's answer.

    `model` is the name that the client used.
    `top_logprobs` is the number of alternatives that the client wants to see for each token.
    `fitting` says what happens if the prompt is too long; without it, the engine's error is the answer."""

    model: str
    target: bytes
    body: bytes
    answer_fields: AnswerFields
    clock: RequestClock
    stream: bool = True
    top_logprobs: int = 0
    fitting: Fitting | None = None
    _content: list[str] = field(default_factory=list)
    _thinking: list[str] = field(default_factory=list)
    _logprobs: list[dict[str, Any]] = field(default_factory=list)
    _calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    _reason: str = ""
    _has_begun: bool = False
    _timings: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Generation {self.model!r} {self.target.decode()} {self._reason or 'running'}>"

    @property
    def media_type(self) -> bytes:
        return NDJSON if self.stream else JSON

    async def __call__(self, post: PostToChild) -> AsyncGenerator[bytes]:
        reader: DeltaReader = ChatReader() if self.target == CHAT else CompletionReader()
        lines = TextLines(self.model, self.answer_fields)
        answer = await self._post(post)
        try:
            collected_bytes = 0
            while not answer.is_at_end:
                pieces = await answer.read_pieces()
                deltas = reader.read(*pieces)
                if not self.stream or any(delta.calls for delta in deltas):
                    collected_bytes += sum(map(len, pieces))
                if collected_bytes > MAX_ANSWER_BYTES:
                    raise UpstreamFailed(
                        f"The model's answer has more than {limit_size(MAX_ANSWER_BYTES)}: set num_predict."
                    )
                if told := b"".join([self._take(delta, lines) for delta in deltas]):
                    yield told
            reader.end()
        finally:
            answer.close()
        with blame_child():
            last = self._last_lines()
        yield b"".join(last)

    async def _post(self, post: PostToChild) -> Answer:
        """The child's answer to the prompt, or to a shorter one if that is too long."""
        is_chat, body = self.target == CHAT, self.body
        if self.fitting:
            body = await self.fitting.before(post, body, is_chat=is_chat)
        for attempt in (1, 2):
            answer = await post(self.target, body)
            if answer.status == 200:
                break
            try:
                refusal = await read_upstream_error(answer)
            finally:
                answer.close()
            if self.fitting is None or attempt == 2:
                raise refusal
            body = await self.fitting.after(post, body, refusal, is_chat=is_chat)
        return answer

    def cut(self) -> bytes | None:
        """What ends the answer when its time is up: it has reached a limit. None if nothing has come yet."""
        if not self._has_begun:
            return None
        self._reason = "length"
        return b"".join(self._last_lines())

    def _take(self, delta: Delta, lines: TextLines) -> bytes:
        """Collects what belongs at the end; returns the lines that go out now."""
        for piece in delta.calls or ():
            self._add_call(piece)
        self._has_begun = True
        self._reason = delta.reason or self._reason
        self._timings = delta.timings or self._timings
        logprobs: list[dict[str, Any]] = []
        if delta.logprobs:
            with blame_child():
                logprobs = shown_logprobs(delta.logprobs, self.top_logprobs)
        if not self.stream:
            self._content += delta.content
            self._thinking += delta.thinking
            self._logprobs += logprobs
            return b""
        if logprobs or (delta.content and delta.thinking):
            told = self.answer_fields("".join(delta.content), "".join(delta.thinking), [])
            fields = {**head(self.model), **told, "done": False}
            return line({**fields, "logprobs": logprobs} if logprobs else fields)
        return lines.lines(delta.content or delta.thinking, are_thoughts=not delta.content)

    def _add_call(self, piece: CallPiece) -> None:
        call = self._calls.setdefault(piece.index, {"id": "", "name": "", "arguments": []})
        call["id"] = piece.id or call["id"]
        if function := piece.function:
            call["name"] = function.name or call["name"]
            call["arguments"].append(function.arguments or "")

    def _last_lines(self) -> list[bytes]:
        if not self._reason:
            raise UpstreamFailed("The model's answer ended before it was complete.")
        calls = [call for index, raw in sorted(self._calls.items()) if (call := _tool_call(index, raw))]
        lines = []
        if calls and self.stream:
            lines.append(line({**head(self.model), **self.answer_fields("", "", calls), "done": False}))
            calls = []
        collected = self.answer_fields("".join(self._content), "".join(self._thinking), calls)
        logprobs = {"logprobs": self._logprobs} if self._logprobs else {}
        figures = {**self.clock.durations(), **_figures(self._timings)}
        reason = "length" if self._reason in ("length", "limit") else "stop"
        return [
            *lines,
            line({**head(self.model), **collected, **logprobs, "done": True, "done_reason": reason, **figures}),
        ]


def _tool_call(index: int, raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """None for a call that the limit of tokens cut off: its arguments are not a JSON object."""
    try:
        arguments = parse_json("".join(raw["arguments"]).encode(errors="replace") or b"{}")
    except ValueError:
        return None
    if not isinstance(arguments, dict):
        return None
    return {"id": raw["id"], "function": {"index": index, "name": raw["name"], "arguments": arguments}}


def _figures(timings: Mapping[str, Any]) -> dict[str, int]:
    """Counts of tokens, and durations in nanoseconds."""

    def figure(name: str) -> float:
        return count_of(timings.get(name))

    return {
        "prompt_eval_count": int(figure("cache_n") + figure("prompt_n")),
        "prompt_eval_duration": int(figure("prompt_ms") * 1e6),
        "eval_count": int(figure("predicted_n")),
        "eval_duration": int(figure("predicted_ms") * 1e6),
    }
