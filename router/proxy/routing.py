"""What a request body says to the router: the model, whether the answer is a stream, and how long it may generate.

Only the fields that the router looks at become objects. The rest, which may be megabytes of pictures, is skipped.
`endpoints` calls this for every request with a model in its body.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypedDict

import msgspec

from router.errors import InvalidField, InvalidRequest
from router.proxy import weight
from router.proxy.body import ANY_JSON, json_object, json_type
from router.proxy.form import form_fields
from router.proxy.keep_alive import keep_alive
from router.proxy.schema import SCHEMA_FIELDS
from router.proxy.thinking import WISH_FIELDS

MAX_MODEL_NAME = 64 * 1024  # characters

# The endpoints that generate, and the fields that limit their tokens. The first field that is not null counts, and a
# negative number is no limit (llama.cpp b11434, tools/server: server-schema.cpp at "n_predict", and the conversions of
# server-chat.cpp). The schema also reads TIME_LIMIT_FIELD, in milliseconds.
_NATIVE = ("n_predict", "max_completion_tokens", "max_tokens")
TOKEN_LIMIT_FIELDS = {
    **dict.fromkeys(("/chat/completions", "/completions", "/completion", "/infill"), _NATIVE),
    "/responses": ("n_predict", "max_completion_tokens", "max_output_tokens", "max_tokens"),
    "/messages": ("max_tokens",),
}
TIME_LIMIT_FIELD = "t_max_predict_ms"

# How many tokens a sampler looks back. From such a request on, llama-server keeps memory for that many tokens in the
# slot, whether there are so many or not.
LOOK_BACK_FIELDS = ("repeat_last_n", "dry_penalty_last_n")
MAX_LOOK_BACK = 2**20  # tokens

MESSAGES = "messages"
_OTHER_FIELDS = (
    "keep_alive",
    "num_ctx",
    "options",
    *WISH_FIELDS,
    *SCHEMA_FIELDS,
    "chat_template_kwargs",
    "tool_choice",
    "best_of",
    "dimensions",
    "response_fields",
    "return_tokens",
    *LOOK_BACK_FIELDS,
)


class MessageHead(msgspec.Struct):
    """What is read of a message: its role, and how its content is written."""

    role: Any = None
    content: msgspec.Raw = msgspec.Raw(b"")


Outline = list[MessageHead]  # of messages that nobody has parsed

_ALL_LIMIT_FIELDS = (name for names in TOKEN_LIMIT_FIELDS.values() for name in names)
_FIELDS = {"model", "stream", TIME_LIMIT_FIELD, *_OTHER_FIELDS, *_ALL_LIMIT_FIELDS}
_DECODER: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(
    TypedDict("_Fields", {**dict.fromkeys(_FIELDS, Any), MESSAGES: Outline}, total=False)  # type: ignore[operator]
)
# For large bodies: each value stays as it is written, so that its weight can be checked before it is parsed.
_RAW_DECODER: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    TypedDict("_RawFields", dict.fromkeys((*_FIELDS, MESSAGES), msgspec.Raw), total=False)  # type: ignore[operator]
)
_PLAIN_FIELDS = {"model", "stream"}.union(*TOKEN_LIMIT_FIELDS.values())
_NO_OUTLINE: Outline = []
_OUTLINE_DECODER = msgspec.json.Decoder(Outline)


class RoutingFields(NamedTuple):
    """What a body says to the router.

    - `model` is None if the body names none.
    - `fields`: the fields of a JSON object that the router looks at; None for an empty body and for a form. A body that
      is written oddly is parsed as a whole; then these are all its fields.
    - `outline`: the `messages` of a chat, if they were not parsed and are not too many to look at.
    """

    model: str | None
    stream: bool
    fields: dict[str, Any] | None
    outline: Outline | None = None

    @property
    def ttl(self) -> float | None:
        """The idle time that the request sets for its model. Raises InvalidRequest."""
        return keep_alive(self.fields) if self.fields else None


def routing_fields(body: bytes, content_type: str | None) -> RoutingFields:
    """A multipart form is read as a form. Every other body is read as a JSON object whatever its content type, as
    llama-server does. Raises InvalidRequest."""
    if content_type and "multipart" in content_type.lower() and (form := form_fields(body, content_type)) is not None:
        model, stream, fields, outline = form.get("model"), form.get("stream") in ("true", "1"), None, None
    elif body:
        fields, outline = _read_fields(body)
        for name in LOOK_BACK_FIELDS:
            check_look_back(name, fields.get(name))
        if fields.get("best_of") not in (None, 1):
            _check_best_of(json_object(body))
        model, stream = fields.get("model"), fields.get("stream") is True
    else:
        model, stream, fields, outline = None, False, None, None
    return RoutingFields(checked_name(model), stream, fields, outline)


def plain_fields(body: bytes) -> tuple[dict[str, Any], Outline] | None:
    """As `routing_fields`, the fields and the outline of a small JSON object that says nothing to the router but the
    name of its model and a limit. None for every other body, and for one that is to be refused."""
    if len(body) > weight.LIGHT_BYTES:
        return None
    try:
        if not body.isascii():
            body.decode()
        fields = _DECODER.decode(body)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None
    outline = fields.pop(MESSAGES, None)
    if not _PLAIN_FIELDS.issuperset(fields) or fields.get("stream"):
        return None
    return fields, outline or _NO_OUTLINE


def all_fields(body: bytes) -> dict[str, Any]:
    """All fields of a JSON object that must not be missing, whatever the content type. Raises InvalidRequest."""
    if not body:
        raise InvalidRequest("The request body is missing; send a JSON object.")
    fields = json_object(body)
    checked_name(fields.get("model"))
    return fields


def _read_fields(body: bytes) -> tuple[dict[str, Any], Outline | None]:
    try:
        if not body.isascii():
            body.decode()  # the decoder does not check the text that it skips
        if len(body) <= weight.LIGHT_BYTES:
            fields = _DECODER.decode(body)
            return fields, fields.pop(MESSAGES, None)
        if len(body) > weight.MAX_SKIPPED_WEIGHT // 2:  # a smaller body cannot weigh that much
            weight.check(body, most=weight.MAX_SKIPPED_WEIGHT)
        values = _RAW_DECODER.decode(body)
        outline = _outline(values.pop(MESSAGES)) if MESSAGES in values else None
        return {name: _parse_value(name, raw) for name, raw in values.items()}, outline
    except (ValueError, RecursionError, msgspec.MsgspecError):
        # The json module reads more than msgspec, and its errors say better what it cannot read.
        return json_object(body), None


def _outline(raw: msgspec.Raw) -> Outline | None:
    text = memoryview(raw)
    return _OUTLINE_DECODER.decode(text) if weight.weight(text) <= weight.MAX_WEIGHT else None


def _parse_value(name: str, raw: msgspec.Raw) -> Any:
    text = memoryview(raw)
    weight.check(text, f'"{name}"')
    return ANY_JSON.decode(text)


def checked_name(model: Any) -> str | None:
    """Raises InvalidRequest for what cannot be the name of a model."""
    if model is not None and not isinstance(model, str):
        raise InvalidRequest(f'"model" must be a string, the name of a model, not {json_type(model)}.')
    if model is not None and len(model) > MAX_MODEL_NAME:
        raise InvalidRequest('"model" must be the name of a model, not a text that long.')
    if model is not None and not model.isprintable():
        raise InvalidRequest('"model" must be the name of a model, without control characters.')
    return model


def check_look_back(name: str, value: Any) -> None:
    """Raises InvalidRequest."""
    if isinstance(value, int | float) and value > MAX_LOOK_BACK:
        raise InvalidRequest(f'"{name}" is at most {MAX_LOOK_BACK}, as the engine keeps that many tokens.')


def _check_best_of(fields: Mapping[str, Any]) -> None:
    """Raises InvalidField for more answers than are to be returned: the engine does not choose the best ones."""
    if fields["best_of"] != fields.get("n", 1):
        raise InvalidField("best_of", 'is not supported: ask for as many answers with "n", or leave it out.')


def has_no_token_limit(path: str, fields: Mapping[str, Any]) -> bool:
    """Whether a request to this path generates until the model ends by itself."""
    names = TOKEN_LIMIT_FIELDS.get(path.removeprefix("/v1"), ())
    return bool(names) and not has_limit(fields, names)


def has_limit(fields: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether these fields limit the tokens: the first of `names` that is given counts."""
    for name in names:
        limit = fields.get(name)
        if limit is not None:
            return isinstance(limit, (int, float)) and limit >= 0
    return False


def with_time_limit(body: bytes, fields: Mapping[str, Any], seconds: float) -> bytes:
    """The JSON object `body` with a time limit as its first member, unless it has its own. `fields` are those of the
    body. The rest stays as it came, and is copied once."""
    if TIME_LIMIT_FIELD in fields:
        return body
    return with_first_members(body, fields, {TIME_LIMIT_FIELD: max(1, round(seconds * 1000))})


def with_first_members(body: bytes, fields: Mapping[str, Any], members: Mapping[str, Any]) -> bytes:
    """The JSON object `body`, of which `fields` are some, with `members` before its own. It is copied once. Of two
    members with the same name, the last one counts."""
    start = body.index(b"{") + 1
    is_empty = not fields and body[start:].lstrip().startswith(b"}")
    text = json.dumps(members, separators=(",", ":"))[1:-1] + ("" if is_empty else ",")
    return b"".join((memoryview(body)[:start], text.encode(), memoryview(body)[start:]))


def has_context_option(fields: Mapping[str, Any]) -> bool:
    """Whether the request has `num_ctx`, Ollama's option for the size of the context."""
    options = fields.get("options")
    return "num_ctx" in fields or (isinstance(options, dict) and "num_ctx" in options)
