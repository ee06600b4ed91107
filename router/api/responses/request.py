"""PURE: a request of the Responses API in a chat's words.

Each field of the API has its effect or is an InvalidRequest that names it. Fields that the API does not have are
llama-server's own (`seed`, `top_k`, `chat_template_kwargs`...), and go to the child as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from router.api.responses.fields import (
    Fields,
    choice,
    flag,
    integer,
    invalid,
    mapping,
    number,
    objects,
    required_text,
    text,
)
from router.api.responses.items import Conversation, FindItem
from router.api.responses.tools import ToolName, read_tool_choice, read_tools
from router.proxy.routing import LOOK_BACK_FIELDS, check_look_back

MAX_TOP_LOGPROBS = 20
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
SUMMARIES = ("auto", "concise", "detailed")
SEALED, LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"

# All that `include` may name. Those that are not SEALED or LOGPROBS add to items that no answer has here.
_INCLUDABLE = frozenset(
    [
        *(SEALED, LOGPROBS, "file_search_call.results", "web_search_call.results", "web_search_call.action.sources"),
        *("message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs"),
    ]
)
# What the router does not have, with the reason.
_REFUSED = {
    "conversation": "Conversations are not kept here; send 'previous_response_id' or the whole input.",
    "prompt": "Prompt templates are kept by OpenAI; send 'instructions' and 'input'.",
    "context_management": "Conversations are not compacted here; send a shorter input.",
    "moderation": "Nothing is moderated here.",
    "messages": "In the Responses API this is 'input'.",
    "response_format": "In the Responses API this is 'text.format'.",
    "functions": "In the Responses API this is 'tools'.",
    "function_call": "In the Responses API this is 'tool_choice'.",
}
# Fields of the API that ask nothing of a model, and those that are translated below. They do not go to the child.
_OWN = frozenset(
    [
        *("access_programs", "background", "background_options", "image", "include", "input", "instructions"),
        *("max_output_tokens", "max_tool_calls", "metadata", "model", "n", "parallel_tool_calls", "personality"),
        *("previous_response_id", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning"),
        *(
            "safety_identifier",
            "service_tier",
            "store",
            "stream",
            "stream_options",
            "temperature",
            "text",
            "tool_choice",
        ),
        *("tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user", *_REFUSED),
    ]
)
# Chats have no field for how long an answer is to be, so the model is asked in words. "medium" is what models do.
_VERBOSITY = {"low": "Keep your answers short.", "high": "Answer in detail."}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request, translated.

    - `fields`: those of the chat completion, always one that streams.
    - `shown`: what the response object repeats of the request.
    - `items`: the input, as items of a list.
    - `names`: tools whose names differ in the chat.
    - `has_summary`: the client wants to see thoughts as their summary, not as they are.
    - `seals`: it wants them as `encrypted_content` too.
    - `top_logprobs`: None if it wants no logprobs.
    - `truncates`: the oldest turns may be left out if the context is too small for all.
    """

    fields: dict[str, Any]
    shown: dict[str, Any]
    items: Sequence[Fields]
    names: dict[str, ToolName] = field(default_factory=dict)
    is_stream: bool = False
    is_stored: bool = True
    has_summary: bool = False
    seals: bool = False
    top_logprobs: int | None = None
    truncates: bool = False


def translate(fields: Fields, model: str, earlier: Sequence[Fields], find_item: FindItem) -> ChatRequest:
    """`model` is the model's own name. `earlier` are the items before the input: those that `previous_response_id`
    means. Raises InvalidRequest."""
    _refuse_unsupported(fields)
    for name in LOOK_BACK_FIELDS:
        check_look_back(name, fields.get(name))
    items = _input_items(fields)
    text_fields, reasoning = mapping(fields, "text"), mapping(fields, "reasoning")
    verbosity = choice(text_fields, "verbosity", ("low", "medium", "high"), "text")
    effort = choice(reasoning, "effort", EFFORTS, "reasoning")
    summary_field = "summary" if reasoning.get("summary") is not None else "generate_summary"
    summary = choice(reasoning, summary_field, SUMMARIES, "reasoning")
    include = _include(fields)
    logprobs = _top_logprobs(fields, include)
    tools = read_tools(objects(fields, "tools"))
    tool_choice = read_tool_choice(fields.get("tool_choice"), tools)
    limit = integer(fields, "max_output_tokens", 1)
    common = {name: number(fields, name) for name in ("temperature", "top_p")}

    chat: dict[str, Any] = {name: value for name, value in fields.items() if name not in _OWN}
    chat |= {name: value for name, value in common.items() if value is not None}
    last_words = _VERBOSITY.get(verbosity or "", "")
    chat["messages"] = _messages(fields, [*earlier, *items], len(earlier), find_item, last_words)
    chat |= {"stream": True, "stream_options": {"include_usage": True}}
    if limit is not None:
        chat["max_tokens"] = limit
    if effort is not None:
        chat["reasoning_effort"] = effort
    if tools.functions:
        chat["tools"] = list(tools.functions.values())
        chat |= {} if tool_choice is None else {"tool_choice": tool_choice}
        if fields.get("parallel_tool_calls") is not None:
            chat["parallel_tool_calls"] = flag(fields, "parallel_tool_calls", True)
    if schema := _response_format(mapping(text_fields, "format", "text")):
        chat["response_format"] = schema
    if logprobs is not None:
        chat |= {"logprobs": True, "top_logprobs": max(1, logprobs)}  # with 0 the engine leaves the token itself out

    is_stored = flag(fields, "store", True)
    shown = {
        "background": False,
        "instructions": text(fields, "instructions") or None,
        "max_output_tokens": limit,
        "max_tool_calls": integer(fields, "max_tool_calls", 1),
        "metadata": _metadata(fields),
        "model": model,
        "parallel_tool_calls": flag(fields, "parallel_tool_calls", True),
        "previous_response_id": text(fields, "previous_response_id") or None,
        "prompt_cache_key": text(fields, "prompt_cache_key") or None,
        "reasoning": {"effort": effort, "summary": summary},
        "safety_identifier": text(fields, "safety_identifier") or None,
        "service_tier": "default",
        "store": is_stored,
        **common,
        "text": {
            "format": dict(mapping(text_fields, "format", "text")) or {"type": "text"},
            "verbosity": verbosity or "medium",
        },
        "tool_choice": fields.get("tool_choice") or "auto",
        "tools": tools.shown,
        "top_logprobs": logprobs or 0,
        "truncation": choice(fields, "truncation", ("auto", "disabled")) or "disabled",
        "user": text(fields, "user") or None,
    }
    return ChatRequest(
        chat,
        shown,
        items,
        tools.names,
        is_stream=flag(fields, "stream", False),
        is_stored=is_stored,
        has_summary=summary is not None,
        seals=SEALED in include,
        top_logprobs=logprobs,
        truncates=shown["truncation"] == "auto",
    )


def _refuse_unsupported(fields: Fields) -> None:
    for name, reason in _REFUSED.items():
        if fields.get(name) not in (None, []):
            raise invalid(f"{name!r} is not supported. {reason}", name)
    if flag(fields, "background", False):
        raise invalid("'background' is not supported: an answer is generated while its client waits.", "background")
    if fields.get("n") not in (None, 1):
        raise invalid("'n' is not supported: the Responses API gives one answer.", "n")


def _input_items(fields: Fields) -> list[dict[str, Any]]:
    given = fields.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return objects(fields, "input")


def _messages(
    fields: Fields, items: Sequence[Fields], earlier: int, find_item: FindItem, last_words: str
) -> list[dict[str, Any]]:
    conversation = Conversation(find_item)
    conversation.add_system(text(fields, "instructions"))
    for index, item in enumerate(items, -earlier):
        conversation.add(item, f"input[{index}]" if index >= 0 else "previous_response_id")
    messages = conversation.finish(last_words)
    if not messages:
        raise invalid("'input' is missing: send a text or a list of items.", "input")
    if calls := messages[-1].get("tool_calls"):
        id = calls[-1]["id"]
        raise invalid(f"No output found for the call {id[:80]!r}: send an item 'function_call_output'.", "input")
    return messages


def _include(fields: Fields) -> frozenset[str]:
    value = fields.get("include")
    if value is None:
        return frozenset()
    if not isinstance(value, list) or not all(isinstance(each, str) and each in _INCLUDABLE for each in value):
        raise invalid(f"'include' must be a list of: {', '.join(sorted(_INCLUDABLE))}.", "include")
    return frozenset(value)


def _top_logprobs(fields: Fields, include: frozenset[str]) -> int | None:
    count = integer(fields, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    return (count or 0) if count or LOGPROBS in include else None


def _response_format(form: Fields) -> dict[str, Any] | None:
    kind = choice(form, "type", ("text", "json_object", "json_schema"), "text.format")
    if kind is None and form:
        raise invalid("'text.format.type' is missing.", "text.format.type")
    if kind == "json_object":
        return {"type": "json_object"}
    if kind != "json_schema":
        return None
    schema: dict[str, Any] = {"name": required_text(form, "name", "text.format")}
    if not isinstance(form.get("schema"), dict):
        raise invalid("'text.format.schema' must be a JSON schema.", "text.format.schema")
    schema["schema"] = form["schema"]
    schema |= {"strict": flag(form, "strict", False, "text.format")} if form.get("strict") is not None else {}
    schema |= {"description": words} if (words := text(form, "description", "text.format")) else {}
    return {"type": "json_schema", "json_schema": schema}


def _metadata(fields: Fields) -> dict[str, str]:
    value = mapping(fields, "metadata")
    if not all(isinstance(each, str) for each in value.values()):
        raise invalid("'metadata' must be an object whose values are strings.", "metadata")
    return dict(value)
