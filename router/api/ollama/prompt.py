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
from router.models.template import SWITCHES, Reasoning
from router.proxy import thinking

CHAT, RAW, INFILL = b"/v1/chat/completions", b"/completion", b"/infill"


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
    messages = _with_defaults(messages, defaults)
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
    if fields.get("context"):
        raise InvalidRequest('"context" is not supported: send the earlier turns as "messages" to /api/chat.')
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
    messages = {"messages": [*before, message], "tools": None}
    return chat({**fields, **messages}, defaults, reasoning)


def _with_defaults(messages: list[dict[str, Any]], defaults: AliasDefaults) -> list[dict[str, Any]]:
    """The messages of the client's own name for the model come after the system message, and before all others."""
    has_system = bool(messages) and messages[0]["role"] == "system"
    system = messages[:1] if has_system else []
    if defaults.system and not has_system:
        system = [{"role": "system", "content": defaults.system}]
    return [*system, *map(dict, defaults.messages), *messages[has_system:]]


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
    """`think`, which `proxy.thinking` turns into the template's own words.

    Ollama's models think unless the request says otherwise, also where the template's author has it off."""
    value = fields.get("think")
    if thinking.wish_of({"think": value}) is not None:
        return {"think": value}
    is_off = reasoning is not None and reasoning.control in SWITCHES and reasoning.default is False
    return {"think": True} if is_off else {}


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
