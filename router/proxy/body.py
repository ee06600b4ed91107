"""What a request body says to the router: which model, whether as a stream, and how long it may generate.

Of a JSON body only the fields that the router looks at are made into objects; the rest, which may be megabytes of
pictures, is passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict, TypeVar

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from starlette.types import Scope

from router import threads
from router.errors import BodyTooLarge, InvalidRequest
from router.proxy import weight
from router.proxy.budget import Budget, Held

_HELD = "llama_router.held"  # in the scope of a request
FIELD_LIMIT = 64 * 1024  # bytes of a form field that are kept

# The endpoints that generate, and the fields that limit their tokens: the first one that is not null counts, and a
# negative number is no limit (llama.cpp b11434, tools/server: server-schema.cpp at "n_predict", and the conversions of
# server-chat.cpp). The schema reads TIME_LIMIT too, in milliseconds; the conversion of Messages drops it.
_NATIVE = ("n_predict", "max_completion_tokens", "max_tokens")
TOKEN_LIMITS = {
    **dict.fromkeys(("/chat/completions", "/completions", "/completion", "/infill"), _NATIVE),
    "/responses": ("n_predict", "max_completion_tokens", "max_output_tokens", "max_tokens"),
    "/messages": ("max_tokens",),
}
TIME_LIMIT = "t_max_predict_ms"

# How many tokens a sampler looks back. The engine keeps that many for each slot from then on, be there so many or not.
LOOKS_BACK = ("repeat_last_n", "dry_penalty_last_n")
FARTHEST = 2**20

_OTHERS = ("num_ctx", "options", "reasoning_effort", "reasoning", "thinking", "chat_template_kwargs", *LOOKS_BACK)
_LOOKED_AT = {"model", "stream", TIME_LIMIT, *_OTHERS, *(name for names in TOKEN_LIMITS.values() for name in names)}
_DECODER: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(
    TypedDict("_Fields", dict.fromkeys(_LOOKED_AT, Any), total=False)  # type: ignore[operator]
)
# The same, but each as it is written: what they hold may be much.
_RAW_DECODER: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    TypedDict("_RawFields", dict.fromkeys(_LOOKED_AT, msgspec.Raw), total=False)  # type: ignore[operator]
)
_ANYTHING = msgspec.json.Decoder()

LARGE = 2**20  # bytes of a body that is not read in the event loop
# Of a multipart form. OpenAI's have ten fields or so, each with a line or two.
MOST_PARTS = 1000
PART_HEAD = 16 * 1024  # bytes
FORM_PIECE = 256 * 1024  # bytes that the parser gets at a time: it counts a head at its end

T = TypeVar("T")


async def apart(size: int, function: Callable[..., T], *args: Any) -> T:
    """What the function makes of a body of that many bytes. Of a large one it is made in a thread: however long all of
    it takes, others come between the steps."""
    if size <= LARGE:
        return function(*args)
    return await threads.PARSERS.run(function, *args)


async def read_body(request: Request, limit: int, budget: Budget | None = None) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as it is known to exceed `limit` bytes, QueueFull as soon as it does
    not fit into the `budget`, and starlette's ClientDisconnect when the client leaves before its end. What it takes of
    the budget it has until `give_back`."""
    length = int(request.headers.get("content-length", 0))
    if length > limit:
        raise _too_large(limit)
    held = None
    if budget is not None:
        budget.check(length)
        held = request.scope[_HELD] = request.scope.get(_HELD) or Held(budget)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        if held is not None:
            held.take(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def give_back(scope: Scope) -> None:
    """The body of this request is held no more."""
    if held := scope.get(_HELD):
        held.give_back()


def is_counted(scope: Scope) -> bool:
    """It holds a part of the budget."""
    return _HELD in scope


def _too_large(limit: int) -> BodyTooLarge:
    # Made where it is raised: an error that a frame also holds is a cycle, which would keep the body with it.
    return BodyTooLarge(
        f"The request body is larger than {limit / 1024**2:g} MiB. Send less, or raise --max-body-size."
    )


class Asked(NamedTuple):
    """`model` is None when the body names none, `fields`, those that the router looks at, when it is no JSON object."""

    model: str | None
    stream: bool
    fields: dict[str, Any] | None


def asked(body: bytes, content_type: str | None) -> Asked:
    """Read a multipart form where the content type says so, else a JSON object, as llama-server does. Raises
    InvalidRequest."""
    if content_type and "multipart" in content_type.lower() and (form := _form(body, content_type)) is not None:
        model, stream, fields = form.get("model"), form.get("stream") in ("true", "1"), None
    elif body:
        fields = _looked_at(body)
        for name in LOOKS_BACK:
            check_look_back(name, fields.get(name))
        model, stream = fields.get("model"), fields.get("stream") is True
    else:
        model, stream, fields = None, False, None
    return Asked(_name(model), stream, fields)


def check_look_back(name: str, value: Any) -> None:
    """Raises InvalidRequest."""
    if isinstance(value, int | float) and value > FARTHEST:
        raise InvalidRequest(f'"{name}" is at most {FARTHEST}, as the engine keeps that many tokens.')


def _name(model: Any) -> str | None:
    if model is not None and not isinstance(model, str):
        raise InvalidRequest(f'"model" must be a string, the name of a model, not {_noun(model)}.')
    if model is not None and len(model) > FIELD_LIMIT:
        raise InvalidRequest('"model" must be the name of a model, not a text that long.')
    if model is not None and not model.isprintable():
        raise InvalidRequest('"model" must be the name of a model, without control characters.')
    return model


def is_unlimited(path: str, fields: Mapping[str, Any]) -> bool:
    """Whether a request of this path generates for as long as the model goes on."""
    for name in (names := TOKEN_LIMITS.get(path.removeprefix("/v1"), ())):
        said = fields.get(name)
        if said is not None:
            return not (isinstance(said, (int, float)) and said >= 0)
    return bool(names)


def with_time_limit(body: bytes, fields: Mapping[str, Any], seconds: float) -> bytes:
    """The JSON object `body`, which holds `fields`, with a time limit in front unless it has its own. The rest is as it
    came, and copied once."""
    if TIME_LIMIT in fields:
        return body
    start = body.index(b"{") + 1
    is_empty = not fields and body[start:].lstrip().startswith(b"}")
    member = f'"{TIME_LIMIT}":{max(1, round(seconds * 1000))}{"" if is_empty else ","}'
    return b"".join((memoryview(body)[:start], member.encode(), memoryview(body)[start:]))


def asks_for_context(fields: Mapping[str, Any]) -> bool:
    """Whether it holds `num_ctx`, Ollama's option."""
    options = fields.get("options")
    return "num_ctx" in fields or (isinstance(options, dict) and "num_ctx" in options)


def _looked_at(body: bytes) -> dict[str, Any]:
    try:
        if not body.isascii():
            body.decode()  # what is passed over is not looked at
        if len(body) <= weight.LIGHT:
            return _DECODER.decode(body)
        if len(body) > weight.PASSED_OVER // 2:  # less cannot weigh that much
            weight.check(body, most=weight.PASSED_OVER)
        return {name: _value(name, raw) for name, raw in _RAW_DECODER.decode(body).items()}
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return json_object(body)  # which reads more, and tells better what it cannot read


def _value(name: str, raw: msgspec.Raw) -> Any:
    text = memoryview(raw)
    weight.check(text, f'"{name}"')
    return _ANYTHING.decode(text)


def all_fields(body: bytes) -> dict[str, Any]:
    """Of a request whose body is JSON, whatever its type is said to be. Raises InvalidRequest."""
    if not body:
        raise InvalidRequest("The request body is missing; send a JSON object.")
    fields = json_object(body)
    _name(fields.get("model"))
    return fields


def json_object(body: bytes) -> dict[str, Any]:
    """All fields of the body. Raises InvalidRequest."""
    weight.check(body)
    try:
        value = _loaded(body)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"The request body is not valid JSON: {exc}.") from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"The request body must be a JSON object, not {_noun(value)}.")
    return value


def _loaded(body: bytes) -> Any:
    """Raises ValueError, RecursionError."""
    if len(body) > weight.LIGHT:
        try:
            if not body.isascii():
                body.decode()
            return _ANYTHING.decode(body)
        except (ValueError, RecursionError, msgspec.MsgspecError):
            pass  # the other one reads more, and tells better what it cannot read
        return json.loads(body.decode("utf-8-sig"), parse_constant=_unwritable, parse_float=_finite)
    return json.loads(body.decode("utf-8-sig"))


def _unwritable(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    return float(word) if math.isfinite(float(word)) else _unwritable(word)


def _noun(value: Any) -> str:
    nouns = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return nouns.get(type(value), "a number")


def _form(body: bytes, content_type: str) -> dict[str, str] | None:
    """The fields of a multipart form; None where that is not the content type."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return None
    form = _Form()
    try:
        parser = MultipartParser(
            options.get(b"boundary", b""),
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_part_data": form.data,
            },
        )
        for start in range(0, len(body), FORM_PIECE):
            parser.write(body[start : start + FORM_PIECE])
    except FormParserError as exc:
        raise InvalidRequest(f"The multipart form cannot be read: {exc}.") from exc
    return {name.decode(errors="replace"): bytes(value).decode(errors="replace") for name, value in form.fields.items()}


class _Form:
    """Collects the fields of a multipart form and passes over its files."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytearray] = {}
        self._field: bytearray | None = None
        self._name = b""
        self._value = b""
        self._parts = self._head = 0

    def begin(self) -> None:
        self._field = None
        self._parts += 1
        self._head = 0
        if self._parts > MOST_PARTS:
            raise InvalidRequest(f"The multipart form has too many parts; send at most {MOST_PARTS}.")

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, size: int) -> None:
        self._head += size + 4  # with what comes between
        if self._head > PART_HEAD:
            raise InvalidRequest(f"A part of the multipart form has a head of more than {PART_HEAD >> 10} KiB.")

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            if b"name" in options and b"filename" not in options:
                self._field = self.fields[options[b"name"]] = bytearray()
        self._name = self._value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._field is not None:
            self._field += data[start : min(end, start + FIELD_LIMIT - len(self._field))]
