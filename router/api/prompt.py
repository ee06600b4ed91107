"""A request of Ollama's API in llama-server's words. Pure; every mistake of the client is an InvalidRequest.

Ollama's fields: its docs/api.md and api/types.go. The engine's: tools/server/README.md and server-schema.cpp of
llama.cpp.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.errors import InvalidRequest
from router.models.template import Reasoning
from router.proxy.rewrite import encode_json
from router.proxy.routing import LOOK_BACK_FIELDS, check_look_back

Fields = Mapping[str, Any]

CHAT, RAW, INFILL = b"/v1/chat/completions", b"/completion", b"/infill"

ROLES = ("system", "user", "assistant", "tool")
LEVELS = ("low", "medium", "high", "max")
MOST_LOGPROBS = 20

# Ollama's options, the engine's names for them, and their types. Those that say how a model is loaded (num_ctx,
# num_gpu, num_thread and others) are the preset's to say, and unknown ones are ignored, as Ollama does.
OPTIONS: Mapping[str, tuple[str, type]] = {
    "temperature": ("temperature", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "typical_p": ("typical_p", float),
    "seed": ("seed", int),
    "num_predict": ("n_predict", int),
    "num_keep": ("n_keep", int),
    "repeat_penalty": ("repeat_penalty", float),
    "repeat_last_n": ("repeat_last_n", int),
    "presence_penalty": ("presence_penalty", float),
    "frequency_penalty": ("frequency_penalty", float),
    "mirostat": ("mirostat", int),
    "mirostat_tau": ("mirostat_tau", float),
    "mirostat_eta": ("mirostat_eta", float),
}
# What stands for "as much as there is": without a limit the engine generates until the context is full.
UNLIMITED = frozenset((("num_predict", 0), ("num_predict", -1), ("num_predict", -2), ("repeat_last_n", -1)))

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_DURATION = re.compile(r"[+-]?(?:\d{1,18}(?:\.\d{1,9})?|(?:\d{1,18}(?:\.\d{1,9})?(?:ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
_SPAN = re.compile(r"([\d.]+)([a-zµμ]*)")
LONGEST = 10 * 365 * 86400.0  # seconds that a model is kept; clocks do not count much further

_IMAGES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"BM": "bmp", b"RIFF": "webp"}


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a name of a client's own adds to the requests that use it."""

    system: str = ""
    parameters: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """What the child is asked."""

    target: bytes
    fields: dict[str, Any]

    @property
    def has_pictures(self) -> bool:
        return any(isinstance(message["content"], list) for message in self.fields.get("messages", ()))


def chat(fields: Fields, defaults: Defaults, reasoning: Reasoning | None = None) -> Question:
    given = fields.get("messages")
    if not isinstance(given, list):
        raise InvalidRequest('"messages" must be a list of {"role", "content"}.')
    calls = _Calls()
    messages = [calls.message(message) for message in given]
    if defaults.system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": defaults.system})
    asked = {
        "messages": messages,
        **_common(fields, defaults),
        **_chat_logprobs(fields),
        **_thinking(fields, reasoning),
    }
    if tools := fields.get("tools"):
        asked["tools"] = _tools(tools)
    if shape := _format(fields):
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": shape}}
    return Question(CHAT, asked)


def generate(fields: Fields, defaults: Defaults, reasoning: Reasoning | None = None) -> Question:
    """By the chat template; past it with `raw`, or with a `suffix` to fill in what comes before it."""
    prompt, suffix, images = text(fields, "prompt"), text(fields, "suffix"), fields.get("images")
    if text(fields, "template"):
        raise InvalidRequest('A "template" in a request is not supported; send the finished prompt with "raw": true.')
    if suffix or flag(fields, "raw"):
        if images:
            raise InvalidRequest('"images" need the chat template: send them without "raw" and "suffix".')
        place = {"input_prefix": prompt, "input_suffix": suffix, "prompt": ""} if suffix else {"prompt": prompt}
        asked = {**place, **_common(fields, defaults)}
        if count := _logprobs(fields):
            asked["n_probs"] = count
        if shape := _format(fields):
            asked["json_schema"] = shape
        return Question(INFILL if suffix else RAW, asked)
    message = {"role": "user", "content": prompt, "images": images}
    system = text(fields, "system") or defaults.system
    before = [{"role": "system", "content": system}] if system else []
    return chat({**fields, "messages": [*before, message], "tools": None}, defaults, reasoning)


def texts(fields: Fields) -> list[str]:
    """What is to be embedded."""
    given = fields.get("input", [])
    given = [given] if isinstance(given, str) else given or []
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise InvalidRequest('"input" must be a string or a list of strings.')
    return given


def dimensions(fields: Fields) -> int:
    """How long vectors are to be, 0 for their own length."""
    value = fields.get("dimensions") or 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequest('"dimensions" must be a positive integer.')
    return value


def keep_alive(fields: Fields) -> float | None:
    """Seconds that the model stays after this request, `math.inf` for ever, None where the request does not say."""
    value = fields.get("keep_alive")
    if value is None:
        return None
    if isinstance(value, str) and _DURATION.fullmatch(value):
        seconds = math.fsum(float(number) * _UNITS[unit] for number, unit in _SPAN.findall(value))
        seconds = -seconds if value.startswith("-") else seconds
    elif isinstance(value, int | float) and not isinstance(value, bool) and value == value:  # not NaN
        seconds = max(-1.0, min(value, LONGEST))  # integers may be too long for a float
    else:
        raise InvalidRequest('"keep_alive" must be seconds or a duration like "5m", "1h30m", 0 or -1.')
    return math.inf if seconds < 0 else min(float(seconds), LONGEST)


def text(fields: Fields, name: str) -> str:
    """The field; empty where it is missing or null."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f'"{name}" must be a string.')
    return value


def flag(fields: Fields, name: str, default: bool = False) -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f'"{name}" must be true or false.')
    return value


def parameters(value: Any) -> dict[str, Any]:
    """Options, each of its type. Those that the engine does not take per request stay as they are."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest("Options must be an object.")
    return {name: _option(name, given) for name, given in value.items() if given is not None}


def _common(fields: Fields, defaults: Defaults) -> dict[str, Any]:
    """What all ways to generate share. An answer that comes as a stream is seen to go on, whatever the client wants."""
    options = {**defaults.parameters, **parameters(fields.get("options"))}
    asked = {
        OPTIONS[name][0]: value for name, value in options.items() if name in OPTIONS and (name, value) not in UNLIMITED
    }
    if "stop" in options:
        asked["stop"] = options["stop"]
    return {**asked, "stream": True}


def _option(name: str, value: Any) -> Any:
    if name == "stop":
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise InvalidRequest('option "stop" must be a string or a list of strings.')
        return stops
    if name not in OPTIONS:
        return value
    if name in LOOK_BACK_FIELDS:
        check_look_back(name, value)
    kind = OPTIONS[name][1]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -(2**53) < value < 2**53:
        raise InvalidRequest(f'option "{name}" must be {"an integer" if kind is int else "a number"}.')
    if kind is int and value != int(value):
        raise InvalidRequest(f'option "{name}" must be an integer.')
    return kind(value)


def _format(fields: Fields) -> dict[str, Any] | None:
    """The schema that the answer must have."""
    value = fields.get("format")
    if value in (None, ""):
        return None
    if value == "json":
        return {"type": "object"}
    if not isinstance(value, dict):
        raise InvalidRequest('"format" must be "json" or a JSON schema.')
    return value or {"type": "object"}


def _thinking(fields: Fields, reasoning: Reasoning | None) -> dict[str, Any]:
    """The template's own words for it. Of a model that is not known to think, the engine may know more."""
    value = fields.get("think")
    if value in (None, ""):
        return {}
    if not isinstance(value, bool) and value not in LEVELS:
        raise InvalidRequest(f'"think" must be true, false or one of {", ".join(LEVELS)}.')
    switches = {"enable_thinking", *({"thinking"} if reasoning and reasoning.control == "thinking" else ())}
    told: dict[str, Any] = {"chat_template_kwargs": dict.fromkeys(sorted(switches), value is not False)}
    level = _level(value, reasoning) if isinstance(value, str) else None
    return told | ({"reasoning_effort": level} if level else {})


def _level(asked: str, reasoning: Reasoning | None) -> str | None:
    """The same or the next lower one that the template knows; None where it knows none of them."""
    known = reasoning.levels if reasoning and reasoning.levels else LEVELS
    lower = LEVELS[LEVELS.index(asked) :: -1]
    return next((level for level in lower if level in known), None)


def alternatives(fields: Fields) -> int:
    """How many other tokens the client wants to see beside each."""
    count = fields.get("top_logprobs") or 0
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_LOGPROBS:
        raise InvalidRequest(f'"top_logprobs" must be an integer from 0 to {MOST_LOGPROBS}.')
    return count


def _logprobs(fields: Fields) -> int:
    """How many the engine is asked for; it says nothing of a token when that is 0."""
    return max(1, alternatives(fields)) if flag(fields, "logprobs") else 0


def _chat_logprobs(fields: Fields) -> dict[str, Any]:
    count = _logprobs(fields)
    return {"logprobs": True, "top_logprobs": count} if count else {}


def _tools(value: Any) -> list[dict[str, Any]]:
    wrong = '"tools" must be a list of {"type": "function", "function": {"name", "parameters"}}.'
    if not isinstance(value, list):
        raise InvalidRequest(wrong)
    tools = []
    for tool in value:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(wrong)
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        description = function.get("description") or ""
        if not isinstance(schema, dict) or not isinstance(description, str):
            raise InvalidRequest(wrong)
        function = {"name": function["name"], "description": description, "parameters": schema}
        tools.append({"type": "function", "function": function})
    return tools


class _Calls:
    """Goes through a conversation from its begin. Tool calls need ids, which Ollama's may lack, and each result the id
    of its call; made by counting, they stay the same when the conversation goes on, and with them the prompt."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[tuple[str, str]] = []  # ids and names of calls without a result

    def message(self, given: Any) -> dict[str, Any]:
        if not isinstance(given, dict) or given.get("role") not in ROLES:
            raise InvalidRequest(f'Each message must be an object whose "role" is one of {", ".join(ROLES)}.')
        role, content, thinking = given["role"], text(given, "content"), text(given, "thinking")
        told: dict[str, Any] = {"role": role, "content": content}
        if images := given.get("images"):
            told["content"] = [*_pictures(images), *([{"type": "text", "text": content}] if content else [])]
        if thinking:
            told["reasoning_content"] = thinking
        if calls := given.get("tool_calls"):
            told["tool_calls"] = self._made(calls)
        return told | (self._answers(given) if role == "tool" else {})

    def _made(self, calls: Any) -> list[dict[str, Any]]:
        wrong = '"tool_calls" must be a list of {"function": {"name", "arguments": {}}}.'
        if not isinstance(calls, list):
            raise InvalidRequest(wrong)
        made = []
        for call in calls:
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise InvalidRequest(wrong)
            arguments = function.get("arguments") or {}
            if not isinstance(arguments, str):
                arguments = encode_json(arguments).decode()
            self._count += 1
            # Nine letters and digits, which is what some templates (Mistral's) insist on.
            name, identity = function["name"], text(call, "id") or f"call{self._count:05d}"
            self._open.append((identity, name))
            made.append({"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}})
        return made

    def _answers(self, given: Fields) -> dict[str, Any]:
        """The first call of that name is the one that a result answers, else the first at all."""
        name, identity = text(given, "tool_name") or text(given, "name"), text(given, "tool_call_id")
        fits = [call for call in self._open if identity == call[0] or (not identity and name == call[1])]
        if found := next(iter(fits or ([] if identity else self._open)), None):
            self._open.remove(found)
            identity, name = found[0], name or found[1]
        return {**({"tool_call_id": identity} if identity else {}), **({"name": name} if name else {})}


def _pictures(images: Any) -> list[dict[str, Any]]:
    if not isinstance(images, Sequence) or isinstance(images, str) or not all(isinstance(i, str) for i in images):
        raise InvalidRequest('"images" must be a list of strings, images in base64.')
    return [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]


def _data_url(image: str) -> str:
    """Ollama wants them bare; the engine wants to know what they are."""
    image = image.partition(",")[2] if image.startswith("data:") else image
    try:
        data = binascii.a2b_base64(image, strict_mode=True)
    except ValueError as exc:
        raise InvalidRequest(f"An image is not valid base64: {exc}.") from exc
    kind = next((kind for magic, kind in _IMAGES.items() if data.startswith(magic)), None)
    if kind is None:
        raise InvalidRequest("An image is none that is known: send PNG, JPEG, WebP, GIF or BMP.")
    return f"data:image/{kind};base64,{image}"
