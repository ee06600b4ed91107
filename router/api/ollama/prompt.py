"""PURE: a request of /api/chat or /api/generate in llama-server's words.

Every mistake of the client is an InvalidRequest.
Ollama's fields are those of its docs/api.md and api/types.go, the engine's those of tools/server/README.md and
server-schema.cpp of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.api.ollama.fields import Fields, flag, text, top_logprobs
from router.api.ollama.messages import MessageTranslator
from router.api.ollama.options import AliasDefaults, engine_options
from router.errors import InvalidRequest
from router.models.template import Reasoning

CHAT, RAW, INFILL = b"/v1/chat/completions", b"/completion", b"/infill"

THINKING_LEVELS = ("low", "medium", "high", "max")


@dataclass(frozen=True, slots=True)
class ChildRequest:
    """A POST to the child: its path, and the fields of its JSON body."""

    target: bytes
    fields: dict[str, Any]

    def __repr__(self) -> str:  # the fields hold the prompt
        return f"<ChildRequest {self.target.decode()}: {', '.join(self.fields)}>"

    @property
    def has_images(self) -> bool:
        return any(isinstance(message["content"], list) for message in self.fields.get("messages", ()))


def chat(fields: Fields, defaults: AliasDefaults, reasoning: Reasoning | None = None) -> ChildRequest:
    """`reasoning` is what the model's chat template says of thinking, None if it says nothing."""
    given = fields.get("messages")
    if not isinstance(given, list):
        raise InvalidRequest('"messages" must be a list of {"role", "content"}.')
    translator = MessageTranslator()
    messages = [translator.translate(message) for message in given]
    if defaults.system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": defaults.system})
    body = {
        "messages": messages,
        **_common(fields, defaults),
        **_chat_logprobs(fields),
        **_thinking(fields, reasoning),
    }
    if tools := fields.get("tools"):
        body["tools"] = _tools(tools)
    if schema := _format(fields):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return ChildRequest(CHAT, body)


def generate(fields: Fields, defaults: AliasDefaults, reasoning: Reasoning | None = None) -> ChildRequest:
    """The prompt goes through the chat template, unless `raw` is set or a `suffix` asks to fill in the middle."""
    prompt, suffix, images = text(fields, "prompt"), text(fields, "suffix"), fields.get("images")
    if text(fields, "template"):
        raise InvalidRequest('A "template" in a request is not supported; send the finished prompt with "raw": true.')
    if suffix or flag(fields, "raw"):
        if images:
            raise InvalidRequest('"images" need the chat template: send them without "raw" and "suffix".')
        prompts = {"input_prefix": prompt, "input_suffix": suffix, "prompt": ""} if suffix else {"prompt": prompt}
        body = {**prompts, **_common(fields, defaults)}
        if count := _logprobs(fields):
            body["n_probs"] = count
        if schema := _format(fields):
            body["json_schema"] = schema
        return ChildRequest(INFILL if suffix else RAW, body)
    message = {"role": "user", "content": prompt, "images": images}
    system = text(fields, "system") or defaults.system
    before = [{"role": "system", "content": system}] if system else []
    return chat({**fields, "messages": [*before, message], "tools": None}, defaults, reasoning)


def _common(fields: Fields, defaults: AliasDefaults) -> dict[str, Any]:
    """The options, and a stream: the child always streams, so that the router sees that the answer goes on."""
    return {**engine_options(fields, defaults), "stream": True}


def _format(fields: Fields) -> dict[str, Any] | None:
    """The JSON schema that the answer must match."""
    value = fields.get("format")
    if value in (None, ""):
        return None
    if value == "json":
        return {"type": "object"}
    if not isinstance(value, dict):
        raise InvalidRequest('"format" must be "json" or a JSON schema.')
    return value or {"type": "object"}


def _thinking(fields: Fields, reasoning: Reasoning | None) -> dict[str, Any]:
    """`think` in the template's own words.

    `enable_thinking` is always sent: the engine may know more of a model than its template shows."""
    value = fields.get("think")
    if value in (None, ""):
        return {}
    if not isinstance(value, bool) and value not in THINKING_LEVELS:
        raise InvalidRequest(f'"think" must be true, false or one of {", ".join(THINKING_LEVELS)}.')
    switches = {"enable_thinking", *({"thinking"} if reasoning and reasoning.control == "thinking" else ())}
    body: dict[str, Any] = {"chat_template_kwargs": dict.fromkeys(sorted(switches), value is not False)}
    level = _nearest_level(value, reasoning) if isinstance(value, str) else None
    return body | ({"reasoning_effort": level} if level else {})


def _nearest_level(wanted: str, reasoning: Reasoning | None) -> str | None:
    """The same level or the next lower one that the template knows; None if it knows none of them."""
    known = reasoning.levels if reasoning and reasoning.levels else THINKING_LEVELS
    downwards = THINKING_LEVELS[THINKING_LEVELS.index(wanted) :: -1]
    return next((level for level in downwards if level in known), None)


def _logprobs(fields: Fields) -> int:
    """How many alternatives the engine is to report; with 0 it would not report the token itself either."""
    return max(1, top_logprobs(fields)) if flag(fields, "logprobs") else 0


def _chat_logprobs(fields: Fields) -> dict[str, Any]:
    count = _logprobs(fields)
    return {"logprobs": True, "top_logprobs": count} if count else {}


def _tools(value: Any) -> list[dict[str, Any]]:
    mistake = '"tools" must be a list of {"type": "function", "function": {"name", "parameters"}}.'
    if not isinstance(value, list):
        raise InvalidRequest(mistake)
    tools = []
    for tool in value:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(mistake)
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        description = function.get("description") or ""
        if not isinstance(schema, dict) or not isinstance(description, str):
            raise InvalidRequest(mistake)
        function = {"name": function["name"], "description": description, "parameters": schema}
        tools.append({"type": "function", "function": function})
    return tools
