"""PURE: an answer without a stream, collected from a stream of the engine.

A request without a token limit has a time limit. The engine looks at its clock only after the end of a line, so the
router has one too; and of an answer that comes in one piece, nothing is known when the time is up. So the engine is
asked for a stream, and its events become the answer that it would have given: whole, or as far as it has come, and then
it says that it was cut. Shapes are those of llama-server (b11434). `endpoints` and `api.messages` use this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from router.errors import UpstreamFailed
from router.proxy.body import ANY_JSON, json_object
from router.proxy.child_events import decode, reported_error
from router.proxy.rewrite import encode_json
from router.proxy.routing import with_first_members
from router.units import limit_size
from router.wire.child_json import blame_child, object_or_empty

MAX_BYTES = 64 << 20  # of the events of one answer
MEDIA_TYPE = b"application/json; charset=utf-8"

Fields = dict[str, Any]

# `timings_per_token` says how many tokens there were, if the answer is cut. An own field of the client counts, as it
# comes later.
_MEMBERS: Fields = {"stream": True, "timings_per_token": True, "stream_options": {"include_usage": True}}
_TOP = ("created", "model", "system_fingerprint")  # the same in all events


class Collected:
    """The answer so far. What the paths have in common; `kind_of` has the classes.

    answer = ChatAnswer()
    answer.feed(data)  # until the end
    body = answer.whole()  # or answer.cut(), when the time is up
    """

    def __init__(self, request: Mapping[str, Any] | None = None) -> None:
        """`request`: its fields, at least those that the router looks at."""
        self._request = request or {}
        self._held = b""  # of a line that is not whole
        self._size = 0
        self._timings: Fields = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._size} bytes>"

    def feed(self, data: bytes) -> None:
        """Raises UpstreamFailed, and the error that an event reports."""
        self._size += len(data)
        if self._size > MAX_BYTES:
            raise UpstreamFailed(f"The model's answer has more than {limit_size(MAX_BYTES)}: send max_tokens.")
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                event = object_or_empty(decode(ANY_JSON, line[6:]))
                if (error := event.get("error")) is not None:
                    raise reported_error(error, 500)
                with blame_child():
                    self._take(event)
                    self._timings = event.get("timings") or self._timings

    def whole(self) -> bytes:
        """Raises UpstreamFailed if the stream has ended before the answer did."""
        if not self._is_complete:
            raise UpstreamFailed("The model's answer ended before it was complete.")
        return self._encoded()

    def cut(self) -> bytes | None:
        """What has come, as an answer that has reached its limit of tokens. None if nothing has come."""
        return self._encoded() if self._has_begun else None

    def fields(self) -> Any:
        """The answer. What has not ended is cut."""
        raise NotImplementedError

    def _encoded(self) -> bytes:
        with blame_child():
            return encode_json(self.fields(), self._size)

    def _take(self, event: Fields) -> None:
        raise NotImplementedError

    @property
    def _has_begun(self) -> bool:
        raise NotImplementedError

    @property
    def _is_complete(self) -> bool:
        raise NotImplementedError

    def _count(self, *names: str) -> int:
        return sum(int(self._timings.get(name) or 0) for name in names)


class ChoicesAnswer(Collected):
    """Of OpenAI's two APIs: answers are `choices`."""

    kind = ""

    def __init__(self, request: Mapping[str, Any] | None = None) -> None:
        super().__init__(request)
        self._top: Fields = {}
        self._choices: dict[int, Fields] = {}
        self._usage: Fields | None = None
        self._verbose: Fields | None = None

    @property
    def _has_begun(self) -> bool:
        return bool(self._choices)

    @property
    def _is_complete(self) -> bool:
        return bool(self._choices) and all(choice["finish_reason"] for choice in self._choices.values())

    def _take(self, event: Fields) -> None:
        if not self._top:
            self._top = {name: event[name] for name in ("id", *_TOP) if name in event}
        self._usage = event.get("usage") or self._usage
        self._verbose = event.get("__verbose") or self._verbose
        for piece in event.get("choices") or ():
            if "prompt_progress" in event:
                continue
            new: Fields = {"finish_reason": None, "texts": [], "thoughts": [], "calls": {}, "logprobs": []}
            choice = self._choices.setdefault(int(piece.get("index") or 0), new)
            choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]
            choice["logprobs"] += (piece.get("logprobs") or {}).get("content") or ()
            self._take_piece(choice, piece)

    def _take_piece(self, choice: Fields, piece: Fields) -> None:
        raise NotImplementedError

    def _choice(self, index: int, choice: Fields) -> Fields:
        raise NotImplementedError

    def fields(self) -> Fields:
        top = {name: value for name, value in self._top.items() if name != "id"}
        answer = {
            "choices": [self._choice(index, choice) for index, choice in sorted(self._choices.items())],
            **top,
            "object": self.kind,
            "usage": self._usage or self._counted(),
            "id": self._top.get("id", ""),
        }
        if self._verbose is not None:
            texts = self._choices[min(self._choices)]["texts"] if self._choices else ()
            answer["__verbose"] = {**_unstreamed(self._verbose), "content": "".join(texts)}
        return answer | ({"timings": self._timings} if self._timings else {})

    def _counted(self) -> Fields:
        """The usage, by the clock of the last token."""
        prompt, generated = self._count("cache_n", "prompt_n"), self._count("predicted_n")
        return {
            "completion_tokens": generated,
            "prompt_tokens": prompt,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": self._count("cache_n")},
        }


class ChatAnswer(ChoicesAnswer):
    kind = "chat.completion"

    def _take_piece(self, choice: Fields, piece: Fields) -> None:
        delta = piece.get("delta") or {}
        choice["texts"].append(delta.get("content") or "")
        choice["thoughts"].append(delta.get("reasoning_content") or "")
        for part in delta.get("tool_calls") or ():
            function = part.get("function") or {}
            call = choice["calls"].setdefault(int(part.get("index") or 0), {"id": "", "name": "", "arguments": []})
            call["id"] = part.get("id") or call["id"]
            call["name"] += function.get("name") or ""
            call["arguments"].append(function.get("arguments") or "")

    def _choice(self, index: int, choice: Fields) -> Fields:
        text, thoughts = "".join(choice["texts"]), "".join(choice["thoughts"])
        calls = [_tool_call(call) for _, call in sorted(choice["calls"].items())]
        message: Fields = {"role": "assistant", "content": None if calls and not text else text}
        message |= {"reasoning_content": thoughts} if thoughts else {}
        message |= {"tool_calls": calls} if calls else {}
        found = {"finish_reason": choice["finish_reason"] or "length", "index": index, "message": message}
        return found | ({"logprobs": {"content": choice["logprobs"]}} if choice["logprobs"] else {})


def _tool_call(call: Fields) -> Fields:
    function = {"name": call["name"], "arguments": "".join(call["arguments"])}
    return {"type": "function", "function": function, "id": call["id"]}


class TextAnswer(ChoicesAnswer):
    kind = "text_completion"

    def _take_piece(self, choice: Fields, piece: Fields) -> None:
        choice["texts"].append(piece.get("text") or "")

    def _choice(self, index: int, choice: Fields) -> Fields:
        return {
            "text": "".join(choice["texts"]),
            "index": index,
            "logprobs": {"content": choice["logprobs"]} if choice["logprobs"] else None,
            "finish_reason": choice["finish_reason"] or "length",
        }


class NativeAnswer(Collected):
    """Of llama.cpp's own API: one object, or a list of them for several prompts."""

    def __init__(self, request: Mapping[str, Any] | None = None) -> None:
        super().__init__(request)
        self._with_tokens = bool(self._request.get("return_tokens"))
        self._results: dict[int, Fields] = {}

    @property
    def _has_begun(self) -> bool:
        return bool(self._results)

    @property
    def _is_complete(self) -> bool:
        return bool(self._results) and all(result["last"] for result in self._results.values())

    def _take(self, event: Fields) -> None:
        if "prompt_progress" in event:
            return
        new: Fields = {"texts": [], "tokens": [], "probabilities": [], "timings": {}, "last": {}}
        result = self._results.setdefault(int(event.get("index") or 0), new)
        result["texts"].append(event.get("content") or "")
        if self._with_tokens:
            result["tokens"] += event.get("tokens") or ()
        result["probabilities"] += event.get("completion_probabilities") or ()
        result["timings"] = event.get("timings") or result["timings"]
        if event.get("stop"):
            result["last"] = event

    def fields(self) -> Any:
        found = [self._result(index, result) for index, result in sorted(self._results.items())]
        return found[0] if len(found) == 1 else found

    def _result(self, index: int, result: Fields) -> Fields:
        last, timings = result["last"], result["timings"]
        last = _unstreamed(last)
        if not last:
            counts = {name: int(timings.get(name) or 0) for name in ("cache_n", "prompt_n", "predicted_n")}
            last = {
                "index": index,
                "stop": True,
                "stop_type": "limit",
                "stopping_word": "",
                "truncated": False,
                "tokens_predicted": counts["predicted_n"],
                "tokens_evaluated": counts["cache_n"] + counts["prompt_n"],
                "timings": timings,
            }
        probabilities = result["probabilities"]
        more = {"completion_probabilities": probabilities} if probabilities else {}
        whole = {**last, "content": "".join(result["texts"]), "tokens": result["tokens"], **more}
        wanted = _response_fields(self._request)
        return _values_at(wanted, whole) if wanted else whole


def _unstreamed(last: Fields) -> Fields:
    """The last event of the engine's own API, with the settings that the client had."""
    if not (settings := object_or_empty(last.get("generation_settings"))):
        return last
    return {**last, "generation_settings": {**settings, "stream": False, "timings_per_token": False}}


def kind_of(path: str) -> Callable[..., Collected] | None:
    """What collects the answers of this path; None if they are not collected."""
    match path.removeprefix("/v1"):
        case "/chat/completions":
            return ChatAnswer
        case "/completions" if path.startswith("/v1"):
            return TextAnswer
        case "/completion" | "/completions" | "/infill":
            return NativeAnswer
    return None


def as_stream(body: bytes, fields: Mapping[str, Any]) -> bytes:
    """The JSON object `body` as a request for a stream. `fields` are those of the body that the router looks at."""
    if fields.get("stream"):
        return body  # neither true nor false: the engine says what is wrong
    dropped = {"stream", "response_fields"} if _response_fields(fields) else {"stream"}
    if not dropped.isdisjoint(fields):
        fields = {name: value for name, value in json_object(body).items() if name not in dropped}
        return encode_json({**_MEMBERS, **fields}, len(body))
    return with_first_members(body, fields, _MEMBERS)


def _response_fields(request: Mapping[str, Any]) -> list[str]:
    """The fields that the native answer is to have; [] for all. The engine would leave out of each event what is not
    among them, so the router chooses them at the end."""
    wanted = request.get("response_fields")
    return wanted if isinstance(wanted, list) and all(isinstance(each, str) for each in wanted) else []


def _values_at(paths: Sequence[str], fields: Fields) -> Fields:
    """What lies at these paths, such as "timings/prompt_n", under the paths' own names."""
    found = {}
    for path in paths:
        value: Any = fields
        for name in path.split("/"):
            value = value.get(name, msgspec.UNSET) if isinstance(value, dict) else msgspec.UNSET
        if value is not msgspec.UNSET:
            found[path] = value
    return found
