"""PURE: a request of /v1/messages as a chat completion.

Every field of the API has its effect, or is an error that names it. Some have none in this place and are ignored: see
`_NO_EFFECT`. A field that the API does not know is llama-server's own (a seed, a grammar, a sampler) and is passed on.
Sources: the types of Anthropic's Python client (`message_create_params.py`), and llama.cpp's server-schema.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.api.messages.conversation import chat_messages, prefill_of
from router.api.messages.fields import Fields, count_at, flag_at, list_at, mistake, name_at, object_at, type_at
from router.api.messages.thinking import effort_of, forget_thoughts, thinking_of, turns_with_thoughts
from router.api.messages.tools import chat_tools
from router.errors import InvalidRequest
from router.proxy.routing import LOOK_BACK_FIELDS, check_look_back

# Accounting, hints for Anthropic's own caches and machines: nothing that an answer would show.
_NO_EFFECT = (
    *("metadata", "service_tier", "cache_control", "inference_geo", "speed", "diagnostics", "betas"),
    *("user_profile_id", "workspace_id", "billing_policy", "fallbacks", "fallback_credit_token"),
)
_REFUSED = {
    "container": "there are no containers here",
    "mcp_servers": "the router does not talk to MCP servers: let the client offer their tools",
    "compaction": "the router does not shorten conversations",
    "thread": "the router keeps no conversations",
}
_TRANSLATED = frozenset(
    (
        *("model", "messages", "system", "max_tokens", "stop_sequences", "stream", "thinking", "tools", "tool_choice"),
        *("output_config", "output_format", "context_management", "keep_alive"),
    )
)
# llama-server's fields that change only what its own answer shows. A message has no place for it.
_OF_OTHER_ANSWERS = frozenset(
    (
        *("stream_options", "verbose", "response_fields", "return_progress", "timings_per_token", "return_tokens"),
        *("reasoning_format", "sse_ping_interval"),
    )
)
_WITHOUT_PLACE = ("logprobs", "top_logprobs", "n_probs")


@dataclass(frozen=True, slots=True)
class AnswerShape:
    """What the request says of its answer.

    `prefill` is the beginning that the client already has.
    `is_warmup`: the prompt is to be computed, and nothing to be generated. The engine generates one token all the same.
    """

    stop_sequences: tuple[str, ...] = ()
    prefill: str = ""
    shows_thinking: bool = True
    stream: bool = False
    is_warmup: bool = False


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """`fields` are those of a chat completion, without the model."""

    fields: dict[str, Any]
    shape: AnswerShape


def chat_request(fields: Fields, *, counts_only: bool = False) -> ChatRequest:
    """The request as a chat completion. `counts_only`: its tokens are to be counted, so nothing is generated."""
    _refuse(fields)
    messages = chat_messages(fields)
    if (kept := turns_with_thoughts(fields)) is not None:
        forget_thoughts(messages, kept)
    output = object_at(fields.get("output_config") or {}, "output_config")
    thinking = thinking_of(fields, effort_of(output))
    translated = {**_format(fields, output), **thinking.chat, **chat_tools(fields)}
    prefill = prefill_of(messages)
    if prefill is not None:
        if thinking.is_on:
            raise InvalidRequest(
                "messages: an answer that has begun cannot think first; end with a message of the user."
            )
        if "reasoning_effort" not in fields:
            translated["reasoning_effort"] = "none"
    stops = _stop_sequences(fields)
    if stops:
        # The answer then says by which of them it was ended, and no more than that.
        translated["stop"] = stops
    extras = _extras(fields, translated.keys())
    stream = flag_at(fields.get("stream"), "stream")
    own = {} if counts_only else _generation_fields(fields, bool(stops), stream)
    shape = AnswerShape(
        tuple(stops), prefill or "", thinking.is_shown, stream and not counts_only, own.get("max_tokens") == 0
    )
    return ChatRequest({**extras, "messages": messages, **translated, **own}, shape)


def _generation_fields(fields: Fields, has_stops: bool, stream: bool) -> dict[str, Any]:
    own: dict[str, Any] = {"stream": stream}
    if fields.get("max_tokens") is not None:
        own["max_tokens"] = count_at(fields["max_tokens"], "max_tokens")
    if has_stops:
        own |= {"verbose": True, "response_fields": ["stopping_word"]}
    if stream:
        # `return_progress`: the first event tells the length of the prompt, as the first event of a message must.
        own |= {"stream_options": {"include_usage": True}, "return_progress": True}
    return own


def _refuse(fields: Fields) -> None:
    for name, reason in _REFUSED.items():
        if fields.get(name):
            raise InvalidRequest(f"{name}: {reason}.")
    for name in _WITHOUT_PLACE:
        if fields.get(name):
            raise InvalidRequest(f"{name}: a message has no place for probabilities; chat completions have.")
    if fields.get("n") not in (None, 1):
        raise InvalidRequest("n: there is one answer to each request.")
    for name in LOOK_BACK_FIELDS:
        check_look_back(name, fields.get(name))


def _extras(fields: Fields, taken: Any) -> dict[str, Any]:
    """The fields that llama-server knows and Messages do not."""
    known = _TRANSLATED | _OF_OTHER_ANSWERS | frozenset((*_NO_EFFECT, *_REFUSED, *_WITHOUT_PLACE, "n"))
    extras = {name: value for name, value in fields.items() if name not in known}
    if twice := sorted(extras.keys() & taken):
        raise InvalidRequest(f"{twice[0]}: the request says this twice, in the words of two APIs; send one of them.")
    return extras


def _stop_sequences(fields: Fields) -> list[str]:
    given = list_at([] if fields.get("stop_sequences") is None else fields["stop_sequences"], "stop_sequences")
    return [name_at(each, f"stop_sequences.{number}") for number, each in enumerate(given)]


def _format(fields: Fields, output: Fields) -> dict[str, Any]:
    """`output_config.format`, and its older name `output_format`."""
    given = {
        name: value
        for name, value in (
            ("output_config.format", output.get("format")),
            ("output_format", fields.get("output_format")),
        )
        if value is not None
    }
    if len(given) > 1:
        raise InvalidRequest("output_format: send output_config.format alone.")
    for where, value in given.items():
        config = object_at(value, where)
        if type_at(config, where) != "json_schema":
            raise mistake(f"{where}.type", 'must be "json_schema".')
        schema = object_at(config.get("schema"), f"{where}.schema")
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}
    return {}
